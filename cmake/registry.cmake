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

# include/ar/data_types.hpp is such a list too, but it is part of the sources (the library is used without CMake): it is written anew when the
# folder has changed, and untouched otherwise.
function(ar_write_data_types)
  file(GLOB headers RELATIVE ${PROJECT_SOURCE_DIR}/include CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/ar/dtype/*.hpp)
  list(SORT headers)
  set(includes "")
  set(items "")
  foreach(header IN LISTS headers)
    get_filename_component(stem ${header} NAME_WE)
    string(APPEND includes "#include \"${header}\"\n")
    string(APPEND items " \\\n  X(${stem})")
  endforeach()
  file(READ ${PROJECT_SOURCE_DIR}/include/ar/data_types.hpp before)
  # Everything up to the first include and the comment before the macro stay as they are.
  string(REGEX REPLACE "#include \"ar/dtype/.*\n\n///" "@includes@\n///" after "${before}")
  string(REGEX REPLACE "AR_FOR_EACH_DATA_TYPE\\(X\\) [^#]*#endif" "AR_FOR_EACH_DATA_TYPE(X)@items@\n\n#endif" after "${after}")
  string(REPLACE "@includes@" "${includes}" after "${after}")
  string(REPLACE "@items@" "${items}" after "${after}")
  if(NOT after STREQUAL before)
    file(WRITE ${PROJECT_SOURCE_DIR}/include/ar/data_types.hpp "${after}")
  endif()
endfunction()
