# Every library that the project uses, found once here. scripts/packages.txt lists the Debian packages.

find_package(Threads REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(ZLIB REQUIRED)
find_package(JPEG REQUIRED)
find_package(PNG REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)

# The shells and their storage. Without gRPC the pure floors, the models and the data still build, on a machine that has only the libraries above.
if(FEDMOE_RPC)
  find_package(SQLite3 REQUIRED)
  find_package(CLI11 REQUIRED)
else()
  find_package(SQLite3 QUIET)
endif()

if(FEDMOE_TESTS)
  find_package(GTest REQUIRED)
endif()
if(FEDMOE_BENCH)
  find_package(benchmark REQUIRED)
endif()

if(FEDMOE_RPC)
  find_package(Protobuf REQUIRED)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(GRPCPP REQUIRED IMPORTED_TARGET grpc++)
  find_program(FEDMOE_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)
endif()

if(FEDMOE_TORCH)
  find_package(Torch REQUIRED)
  # Our own target: the headers as system headers, without the compiler flags that Torch's package would push on us.
  add_library(fedmoe_torch INTERFACE)
  target_include_directories(fedmoe_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  target_link_libraries(fedmoe_torch INTERFACE ${TORCH_LIBRARIES})
endif()
