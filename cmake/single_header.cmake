# Writes the library into one header: cmake -DINCLUDE_DIR=include -DOUT=build/single_header/ar.hpp -P cmake/single_header.cmake
# Every door but ar/dispatch.hpp (whose unit is compiled once per SIMD target, by including itself) with all that it needs, each file once, at the
# place where it is included first. Highway stays an include; AR_NO_HIGHWAY goes without.
cmake_minimum_required(VERSION 3.22)
get_filename_component(INCLUDE_DIR ${INCLUDE_DIR} ABSOLUTE)

# Strings are taken apart by position: as lists, the semicolons and brackets of C++ would not survive.
set(text "")
set(seen "")

function(ar_append name)
  string(FIND "${seen}" "<${name}>" at)
  if(NOT at EQUAL -1)
    return()
  endif()
  set(seen "${seen}<${name}>")
  file(READ ${INCLUDE_DIR}/${name} rest)
  string(REPLACE "#pragma once\n" "" rest "${rest}")
  string(APPEND text "// ---- ${name}\n")
  while(TRUE)
    string(FIND "${rest}" "\n#include \"ar/" at)
    if(at EQUAL -1)
      break()
    endif()
    math(EXPR at "${at} + 1")
    string(SUBSTRING "${rest}" 0 ${at} before)
    string(APPEND text "${before}")
    math(EXPR at "${at} + 10")
    string(SUBSTRING "${rest}" ${at} -1 rest)  # begins with the name
    string(FIND "${rest}" "\"" at)
    string(SUBSTRING "${rest}" 0 ${at} inner)
    string(FIND "${rest}" "\n" at)
    string(SUBSTRING "${rest}" ${at} -1 rest)
    ar_append(${inner})
  endwhile()
  string(APPEND text "${rest}")
  set(text "${text}" PARENT_SCOPE)
  set(seen "${seen}" PARENT_SCOPE)
endfunction()

file(GLOB doors RELATIVE ${INCLUDE_DIR} ${INCLUDE_DIR}/ar/*.hpp)
list(SORT doors)
list(REMOVE_ITEM doors ar/dispatch.hpp)
foreach(door IN LISTS doors)
  ar_append(${door})
endforeach()
file(STRINGS ${INCLUDE_DIR}/ar/version.hpp version REGEX "AR_VERSION_STRING \"[0-9.]+\"")
string(REGEX REPLACE ".*\"([0-9.]+)\".*" "\\1" version "${version}")
file(WRITE ${OUT} "// ar ${version}, all doors but dispatch in one header. Made by cmake/single_header.cmake; do not edit. License: Apache-2.0.
// C++20, -ffp-contract=off. One instruction set per unit: the one that the compiler's flags name. Needs Highway's headers, or define AR_NO_HIGHWAY.
#pragma once

${text}")
