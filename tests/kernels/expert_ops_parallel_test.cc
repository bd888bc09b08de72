#include "kernels/expert_ops_parallel.h"

#include <vector>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

#ifdef _OPENMP
TEST(RunOnThreads, LeavesTheCallersNumberOfThreadsAndTellsLibrariesOfOne) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(2);
  int inside = 0;
  RunOnThreads(1, [&](int) { inside = omp_get_max_threads(); });
  EXPECT_EQ(inside, 1);
  EXPECT_EQ(omp_get_max_threads(), 2);
  omp_set_num_threads(before);
}
#endif

TEST(TaskQueue, HandsOutEveryTaskOnce) {
  TaskQueue queue(100);
  std::vector<int> runs(100, 0);
  RunOnThreads(3, [&](int) {
    queue.Run([&](std::int64_t task) { ++runs[static_cast<std::size_t>(task)]; });
  });
  EXPECT_EQ(runs, std::vector<int>(100, 1));
}

}  // namespace
}  // namespace fedmoe
