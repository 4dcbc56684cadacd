# cmake -DOUT=<file.c> -DSCHEMAS=<a.avsc;b.avsc> -P EmbedSchemas.cmake
#
# Writes the schema files into one C file, as common/embedded_schemas.h declares them. Each character is a
# number, so no text in a schema can break the C.
set(arrays "")
set(rows "")
set(count 0)
foreach(file IN LISTS SCHEMAS)
  get_filename_component(name "${file}" NAME)
  file(READ "${file}" hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)"
    "\\1\n    " bytes "${bytes}")
  string(APPEND arrays "static const char schema_${count}[] = {\n    ${bytes}0};\n")
  string(APPEND rows "    {\"${name}\", schema_${count}, sizeof(schema_${count}) - 1},\n")
  math(EXPR count "${count} + 1")
endforeach()
if(count EQUAL 0)
  set(rows "    {\"\", \"\", 0},\n")
endif()
file(WRITE "${OUT}" "/* Made by cmake/EmbedSchemas.cmake from schemas/. */
#include \"common/embedded_schemas.h\"

${arrays}
const struct ap_embedded_schema ap_embedded_schemas[] = {
${rows}};
const size_t ap_embedded_schemas_count = ${count};
")
