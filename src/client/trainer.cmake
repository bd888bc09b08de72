# The part of the client that trains: needs libtorch, but neither gRPC nor protobuf.
fedmoe_library(fedmoe_client_trainer
  SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/benchmark.cc
    ${CMAKE_CURRENT_LIST_DIR}/blas_check.cc
    ${CMAKE_CURRENT_LIST_DIR}/data_path.cc
    ${CMAKE_CURRENT_LIST_DIR}/example_source.cc
    ${CMAKE_CURRENT_LIST_DIR}/local_trainer.cc
    ${CMAKE_CURRENT_LIST_DIR}/model_optimizer.cc
    ${CMAKE_CURRENT_LIST_DIR}/optimizer_state.cc
    ${CMAKE_CURRENT_LIST_DIR}/tally.cc
    ${CMAKE_CURRENT_LIST_DIR}/training_run.cc
  DEPENDS fedmoe_moe fedmoe_data
  PRIVATE_DEPENDS fmt::fmt ${CMAKE_DL_LIBS})
target_precompile_headers(fedmoe_client_trainer REUSE_FROM fedmoe_moe)
# These include no libtorch.
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/blas_check.cc ${CMAKE_CURRENT_LIST_DIR}/data_path.cc PROPERTIES
  SKIP_PRECOMPILE_HEADERS ON)
# Square roots are vectorised only where they need not set errno; their values are the same.
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/optimizer_state.cc PROPERTIES
  SKIP_PRECOMPILE_HEADERS ON COMPILE_OPTIONS -fno-math-errno)
