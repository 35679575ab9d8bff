# Flags of our own targets. Nothing global is set: a project that takes the library in sees none of this.
if(PROJECT_IS_TOP_LEVEL)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
  endif()
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  find_program(AR_CCACHE ccache)
  mark_as_advanced(AR_CCACHE)
  if(AR_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    # What a unit depends on comes from the compiler's own run, not from one of the preprocessor before it.
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_DEPEND=1 ${AR_CCACHE})
  endif()
endif()

function(ar_house_flags target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE -Wno-restrict)  # false positives on std::string, GCC bug 105651
  endif()
  if(AR_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(AR_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)  # counts the branches of the code under test for libFuzzer
  endif()
  if(AR_SANITIZE)
    # Null pointers that are used end the program anyway; asking at each use would take a sixth of the time to compile.
    target_compile_options(${target} PRIVATE -fsanitize=${AR_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -fno-sanitize=null)
    target_link_options(${target} PRIVATE -fsanitize=${AR_SANITIZE})
  endif()
endfunction()
