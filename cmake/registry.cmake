# Registries without ceremony: the stems of the files in a folder become a generated list, so that adding a data type, an architecture or an
# export format means adding one file.
function(ar_registry out_file macro)
  set(text "// Generated from the folder's files by cmake/registry.cmake.\n")
  foreach(file IN LISTS ARGN)
    get_filename_component(stem ${file} NAME_WE)
    string(APPEND text "${macro}(${stem})\n")
  endforeach()
  file(GENERATE OUTPUT ${out_file} CONTENT "${text}")
endfunction()
