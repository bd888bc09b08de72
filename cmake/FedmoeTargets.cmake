# How every target of the project is made: one static library a folder, warnings as errors on our own code.

find_program(FEDMOE_CCACHE ccache)
if(FEDMOE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${FEDMOE_CCACHE})
  # A precompiled header is a binary that ccache must be told how to treat.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${FEDMOE_CCACHE})
endif()

add_library(fedmoe_flags INTERFACE)
target_include_directories(fedmoe_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
# Contraction would let the compiler choose where a multiply-add rounds; model digests must not depend on that.
target_compile_options(fedmoe_flags INTERFACE -ffp-contract=off)
target_link_libraries(fedmoe_flags INTERFACE pthread)

add_library(fedmoe_warnings INTERFACE)
target_compile_options(fedmoe_warnings INTERFACE -Wall -Wextra -Wpedantic
                       $<$<BOOL:${FEDMOE_WARNINGS_AS_ERRORS}>:-Werror> -Wno-missing-field-initializers)

# GCC 12 sees an overlap that is not there in `"literal" + std::string` (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(fedmoe_warnings INTERFACE -Wno-restrict)
endif()

if(FEDMOE_SANITIZE)
  target_compile_options(fedmoe_flags INTERFACE -fsanitize=${FEDMOE_SANITIZE} -fno-omit-frame-pointer -g1)
  target_link_options(fedmoe_flags INTERFACE -fsanitize=${FEDMOE_SANITIZE})
endif()

# libFuzzer's own main is linked into the fuzz targets alone (tests/fuzz). What undefined behaviour is found ends the program.
if(FEDMOE_FUZZ)
  set(fuzz_options -fsanitize=fuzzer-no-link -fprofile-instr-generate)
  target_compile_options(fedmoe_flags INTERFACE ${fuzz_options} -fcoverage-mapping -fno-sanitize-recover=all)
  target_link_options(fedmoe_flags INTERFACE ${fuzz_options})
endif()

# fedmoe_library(NAME SOURCES a.cc ... DEPENDS other ...): the library of one folder of src/.
function(fedmoe_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC fedmoe_flags ${ARG_DEPENDS}
                        PRIVATE fedmoe_warnings ${ARG_PRIVATE_DEPENDS})
endfunction()

# fedmoe_program(NAME SOURCES ... DEPENDS ...): an executable in build/<preset>/bin.
function(fedmoe_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE fedmoe_warnings ${ARG_DEPENDS})
endfunction()

# fedmoe_test(NAME SOURCES ... DEPENDS ...): one GoogleTest program a folder, each of its tests a CTest test.
function(fedmoe_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE fedmoe_warnings ${ARG_DEPENDS} GTest::gmock GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${FEDMOE_TEST_OPTIONS})
  if(FEDMOE_TEST_HEADER)
    target_precompile_headers(${name} REUSE_FROM ${FEDMOE_TEST_HEADER})
  endif()
  target_compile_definitions(${name} PRIVATE FEDMOE_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                             FEDMOE_BINARY_DIR="${CMAKE_BINARY_DIR}")
  include(GoogleTest)
  # A program of libtorch that is not in the page cache takes a while to load.
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 120
                       PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()
