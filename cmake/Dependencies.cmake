# antipode_deps: everything outside this repository that our code links, as one target.
#
# FAISS and librdkafka come from the cache that ./dev deps fills, unless ANTIPODE_FAISS_ROOT and
# ANTIPODE_RDKAFKA_ROOT name other places; the rest are Debian packages, found by pkg-config.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

set(ANTIPODE_FAISS_ROOT "" CACHE PATH "Where FAISS and its C API are installed (default: the cache of ./dev deps)")
set(ANTIPODE_RDKAFKA_ROOT "" CACHE PATH "Where a static librdkafka is installed (default: the cache of ./dev deps)")

function(antipode_root variable what)
  if(${variable})
    set(${variable}_FOUND_AT "${${variable}}" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND "${CMAKE_SOURCE_DIR}/dev" path ${what}
    OUTPUT_VARIABLE path OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status)
  if(status OR NOT IS_DIRECTORY "${path}")
    message(FATAL_ERROR "${what} is not built yet: run ./dev deps, or set ${variable}")
  endif()
  set(${variable}_FOUND_AT "${path}" PARENT_SCOPE)
endfunction()

# Paths of an older recipe must not survive in CMake's cache: these are looked up at every configuration, and a recipe that
# was changed asks for one.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/scripts/deps.sh")
foreach(variable FAISS_C_LIBRARY FAISS_LIBRARY FAISS_INCLUDE RDKAFKA_LIBRARY RDKAFKA_INCLUDE)
  unset(${variable} CACHE)
endforeach()

# ---- FAISS: its C API, itself, OpenBLAS, OpenMP -----------------------------------------------------------
antipode_root(ANTIPODE_FAISS_ROOT faiss)
find_library(FAISS_C_LIBRARY NAMES faiss_c_avx512 faiss_c_avx2 faiss_c_sve faiss_c REQUIRED
  HINTS "${ANTIPODE_FAISS_ROOT_FOUND_AT}/lib")
find_library(FAISS_LIBRARY NAMES faiss_avx512 faiss_avx2 faiss_sve faiss REQUIRED
  HINTS "${ANTIPODE_FAISS_ROOT_FOUND_AT}/lib")
find_path(FAISS_INCLUDE faiss/c_api/Index_c.h REQUIRED HINTS "${ANTIPODE_FAISS_ROOT_FOUND_AT}/include")
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)
message(STATUS "FAISS: ${FAISS_C_LIBRARY}")

add_library(antipode_faiss INTERFACE)
target_include_directories(antipode_faiss SYSTEM INTERFACE "${FAISS_INCLUDE}")
# FAISS is C++ with OpenMP, built by GCC: whoever links it, with clang as well, needs these runtimes.
target_link_libraries(antipode_faiss INTERFACE
  "${FAISS_C_LIBRARY}" "${FAISS_LIBRARY}" PkgConfig::OPENBLAS gomp stdc++ m)

# omp.h, of which FAISS's headers take the locks, must be that of the runtime FAISS was built for: GCC's.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  execute_process(COMMAND gcc -print-file-name=include/omp.h OUTPUT_VARIABLE omp_h OUTPUT_STRIP_TRAILING_WHITESPACE)
  file(READ "${omp_h}" text)
  string(REGEX REPLACE "__malloc__ \\([^)]*\\)" "__malloc__" text "${text}") # clang takes no arguments there
  file(WRITE "${CMAKE_BINARY_DIR}/gcc-omp/omp.h" "${text}")
  target_include_directories(antipode_faiss SYSTEM INTERFACE "${CMAKE_BINARY_DIR}/gcc-omp")
endif()

# ---- librdkafka, static: its own dependencies come after it -------------------------------------------------
antipode_root(ANTIPODE_RDKAFKA_ROOT rdkafka)
find_library(RDKAFKA_LIBRARY NAMES librdkafka.a REQUIRED HINTS "${ANTIPODE_RDKAFKA_ROOT_FOUND_AT}/lib")
find_path(RDKAFKA_INCLUDE librdkafka/rdkafka.h REQUIRED HINTS "${ANTIPODE_RDKAFKA_ROOT_FOUND_AT}/include")
pkg_check_modules(RDKAFKA_NEEDS REQUIRED IMPORTED_TARGET libzstd zlib libssl libcrypto)
message(STATUS "librdkafka: ${RDKAFKA_LIBRARY}")

add_library(antipode_rdkafka INTERFACE)
target_include_directories(antipode_rdkafka SYSTEM INTERFACE "${RDKAFKA_INCLUDE}")
target_link_libraries(antipode_rdkafka INTERFACE
  "${RDKAFKA_LIBRARY}" PkgConfig::RDKAFKA_NEEDS Threads::Threads ${CMAKE_DL_LIBS} m)

# ---- Debian's ------------------------------------------------------------------------------------------------
pkg_check_modules(SYSTEM_LIBS REQUIRED IMPORTED_TARGET
  avro-c jansson lmdb libmicrohttpd libxxhash libsodium libcurl)

find_library(ROARING_LIBRARY NAMES roaring REQUIRED) # CRoaring; without a .pc file in Debian 12
find_path(ROARING_INCLUDE roaring/roaring.h REQUIRED)

add_library(antipode_deps INTERFACE)
target_include_directories(antipode_deps SYSTEM INTERFACE "${ROARING_INCLUDE}")
target_link_libraries(antipode_deps INTERFACE
  antipode_faiss antipode_rdkafka PkgConfig::SYSTEM_LIBS "${ROARING_LIBRARY}" Threads::Threads m)
