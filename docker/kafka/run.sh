#!/bin/sh
# broker REGION | mirror REGION | topics REGION REGIONS: what the containers run.
set -eu
java() { command java $JAVA_OPTS -cp "/opt/kafka/libs/*" "$@"; }

region=$2
case $1 in
broker)
    properties=docker/kafka/$region.properties
    [ -e ".antipode/data/$region/kafka/meta.properties" ] ||
        java kafka.tools.StorageTool format -t "$(command java -cp '/opt/kafka/libs/*' kafka.tools.StorageTool random-uuid)" -c "$properties"
    # shellcheck disable=SC2086
    exec java $JAVA_OPTS -cp "/opt/kafka/libs/*" kafka.Kafka "$properties"
    ;;
mirror)
    # shellcheck disable=SC2086
    exec java $JAVA_OPTS -cp "/opt/kafka/libs/*" org.apache.kafka.connect.mirror.MirrorMaker \
        "docker/mirrormaker/$region.properties" --clusters "$region"
    ;;
topics)
    # The same topics as tests/harness/kafka.py makes (region_topics).
    bootstrap=$(sed -n 's/^advertised.listeners=PLAINTEXT:\/\/\([^,]*\),.*/\1/p' "docker/kafka/$region.properties")
    make() { # NAME PARTITIONS CONFIG...
        name=$1 partitions=$2
        shift 2
        java org.apache.kafka.tools.TopicCommand --bootstrap-server "$bootstrap" --create --if-not-exists \
            --topic "$name" --partitions "$partitions" --replication-factor 1 "$@"
    }
    for origin in $(echo "$3" | tr , ' '); do
        prefix=$([ "$origin" = "$region" ] || echo "$origin.")
        make "${prefix}vec-mutations" 4 --config cleanup.policy=delete --config retention.ms=604800000
        make "${prefix}vec-control" 1 --config cleanup.policy=compact
        make "${prefix}vec-watermarks" 1 --config cleanup.policy=compact
    done
    make raw-vectors 4 --config cleanup.policy=delete --config retention.ms=604800000
    make dlq-mutations 4 --config cleanup.policy=delete --config retention.ms=604800000
    ;;
*)
    echo "usage: run.sh broker|mirror REGION, or topics REGION REGIONS" >&2
    exit 2
    ;;
esac
