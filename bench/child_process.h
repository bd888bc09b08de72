// A program that a bench runs beside itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

#include "common/result.h"

namespace fedmoe {

// Its standard input is a pipe that closes with this object; its output goes to `log`, or, where
// that is empty, to a pipe. Killed on destruction if it still runs.
class ChildProcess {
 public:
  static Result<ChildProcess> Start(const std::vector<std::string>& command,
                                    const std::string& log = "");
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  Result<std::string> ReadLine();  // of its output, without the line feed
  bool Running();
  // The exit code, or minus the signal that ended it.
  int Wait();
  void Signal(int number);

  // From /proc, bytes; 0 where it is gone.
  std::uint64_t ResidentBytes() const;
  std::uint64_t PeakResidentBytes() const;
  // The peak counts from here on.
  void ForgetPeak() const;
  // User and system time so far, seconds.
  double ProcessorSeconds() const;

 private:
  ChildProcess() = default;
  std::uint64_t StatusField(const std::string& name) const;
  pid_t pid_ = -1;
  int input_ = -1;
  int output_ = -1;
  int code_ = 0;
};

}  // namespace fedmoe
