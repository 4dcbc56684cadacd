// Loads an .npy file into a collection of a Weaviate server, or asks it questions, over gRPC.
//
//	weaviate load --grpc HOST:PORT --class NAME --npy FILE [--clients 2]
//	weaviate query --grpc HOST:PORT --class NAME --queries FILE --truth FILE [--count 2000] [--clients 1]
//
// The counterpart of bench/query.c, with the same meaning of everything: row i is the object whose UUID ends in i; --truth has, for each
// query, the ids of the nearest, as floats; 50 requests of each client go before the clock starts. Prints one JSON object.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"sort"
	"strconv"
	"sync"
	"time"

	pb "github.com/weaviate/weaviate/grpc/generated/protocol/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	k     = 10
	warm  = 50
	batch = 256
)

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// matrix holds rows of little-endian float32, as they lie in the file and as they travel.
type matrix struct {
	data      []byte
	rows, dim int
}

func (m matrix) row(i int) []byte { return m.data[i*m.dim*4 : (i+1)*m.dim*4] }

func (m matrix) at(i, j int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(m.row(i)[j*4:]))
}

var shape = regexp.MustCompile(`'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), (\d+)\)`)

func load(path string) matrix {
	data, err := os.ReadFile(path)
	die(err)
	if len(data) < 10 || string(data[:6]) != "\x93NUMPY" {
		die(fmt.Errorf("%s: not an .npy file of format 1", path))
	}
	start := 10 + int(binary.LittleEndian.Uint16(data[8:]))
	found := shape.FindSubmatch(data[10:start])
	if found == nil {
		die(fmt.Errorf("%s: wants a 2-D array of <f4 in C order, found %s", path, data[10:start]))
	}
	rows, _ := strconv.Atoi(string(found[1]))
	dim, _ := strconv.Atoi(string(found[2]))
	if len(data)-start != rows*dim*4 {
		die(fmt.Errorf("%s: another length than its header says", path))
	}
	return matrix{data[start:], rows, dim}
}

func fp32(row []byte) []*pb.Vectors {
	return []*pb.Vectors{{VectorBytes: row, Type: pb.Vectors_VECTOR_TYPE_SINGLE_FP32}}
}

func loadAll(client pb.WeaviateClient, class string, base matrix, clients int) map[string]any {
	batches := make(chan int)
	var wait sync.WaitGroup
	start := time.Now()
	for c := 0; c < clients; c++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for at := range batches {
				request := &pb.BatchObjectsRequest{}
				for i := at; i < min(at+batch, base.rows); i++ {
					request.Objects = append(request.Objects, &pb.BatchObject{
						Uuid: fmt.Sprintf("00000000-0000-0000-0000-%012d", i), Collection: class, VectorBytes: base.row(i),
						Properties: &pb.BatchObject_Properties{},
					})
				}
				reply, err := client.BatchObjects(context.Background(), request)
				die(err)
				if len(reply.Errors) > 0 {
					die(fmt.Errorf("row %d: %s", at+int(reply.Errors[0].Index), reply.Errors[0].Error))
				}
			}
		}()
	}
	for at := 0; at < base.rows; at += batch {
		batches <- at
	}
	close(batches)
	wait.Wait()
	took := time.Since(start).Seconds()
	return map[string]any{"rows": base.rows, "seconds": took}
}

func ask(client pb.WeaviateClient, request *pb.SearchRequest) []int {
	reply, err := client.Search(context.Background(), request)
	die(err)
	ids := make([]int, 0, k)
	for _, result := range reply.Results {
		id, err := strconv.Atoi(result.Metadata.Id[24:])
		die(err)
		ids = append(ids, id)
	}
	return ids
}

func query(client pb.WeaviateClient, class string, queries, truth matrix, count, clients int) map[string]any {
	requests := make([]*pb.SearchRequest, queries.rows)
	for i := range requests {
		requests[i] = &pb.SearchRequest{
			Collection: class, Limit: k, Uses_127Api: true, Metadata: &pb.MetadataRequest{Uuid: true},
			Properties: &pb.PropertiesRequest{}, NearVector: &pb.NearVector{Vectors: fp32(queries.row(i))},
		}
	}
	all := make([]float64, count*clients)
	answers := make([][]int, count*clients)
	question := func(c, i int) int { return (i*clients + c) % queries.rows }
	var warmed, wait sync.WaitGroup
	gate := make(chan struct{})
	for c := 0; c < clients; c++ {
		warmed.Add(1)
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := 0; i < warm+count; i++ {
				if i == warm {
					warmed.Done()
					<-gate
				}
				t := time.Now()
				ids := ask(client, requests[question(c, i)])
				if i >= warm {
					all[c*count+i-warm] = float64(time.Since(t).Nanoseconds()) / 1e6
					answers[c*count+i-warm] = ids
				}
			}
		}()
	}
	warmed.Wait()
	start := time.Now()
	close(gate)
	wait.Wait()
	took := time.Since(start).Seconds()
	hits := 0
	for at, ids := range answers {
		q := question(at/count, at%count+warm)
		for _, id := range ids {
			for j := 0; j < k; j++ {
				if int(truth.at(q, j)) == id {
					hits++
				}
			}
		}
	}
	sort.Float64s(all)
	percentile := func(p float64) float64 { return all[int(p*float64(len(all)-1)+0.5)] }
	return map[string]any{
		"queries": len(all), "clients": clients, "recall_at_10": float64(hits) / float64(len(all)*k), "p50_ms": percentile(0.5),
		"p90_ms": percentile(0.9), "p99_ms": percentile(0.99), "per_second": float64(len(all)) / took,
	}
}

func main() {
	if len(os.Args) < 2 || (os.Args[1] != "load" && os.Args[1] != "query") {
		fmt.Fprintln(os.Stderr, "usage: weaviate load|query --grpc HOST:PORT --class NAME ...")
		os.Exit(2)
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	address := flags.String("grpc", "", "host:port of the server's gRPC")
	class := flags.String("class", "", "the collection")
	npy := flags.String("npy", "", "rows to load")
	queries := flags.String("queries", "", "questions, one a row")
	truth := flags.String("truth", "", "ids of the nearest of each question")
	count := flags.Int("count", 2000, "questions a client asks")
	clients := flags.Int("clients", 1, "how many at once")
	die(flags.Parse(os.Args[2:]))
	connection, err := grpc.NewClient(*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	die(err)
	client := pb.NewWeaviateClient(connection)
	var out map[string]any
	if os.Args[1] == "load" {
		out = loadAll(client, *class, load(*npy), *clients)
	} else {
		out = query(client, *class, load(*queries), load(*truth), *count, *clients)
	}
	die(json.NewEncoder(os.Stdout).Encode(out))
}
