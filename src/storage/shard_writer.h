// Writes the tensor files of one version under temporary names. Internal to storage.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "storage/safetensors.h"
#include "storage/shard_store.h"

namespace fedmoe {

// name + ".tmp": where a file of a version stands until it is committed.
std::string TemporaryName(const std::string& name);

// One version's files, written shard by shard in the order announced. Not thread-safe. Its
// temporary files stay after Finish() and are removed by Remove().
class ShardWriter {
 public:
  ShardWriter(FileSystem& files, std::string directory, const ModelSpec& spec, ModelVersion version,
              const std::vector<ShardContent>& changed);

  // Creates the files and writes their headers, which the spec and the moment counts determine.
  Status Begin();
  // The content of the next shard; the location that it has.
  Result<StoredShard> Write(const ShardContent& content);
  // Closes; syncs before that if so told.
  Status Finish(bool sync);
  // Best effort, after a failure.
  void Remove();

 private:
  Status BeginFile(const std::string& name, std::vector<TensorInfo>& tensors,
                   std::unique_ptr<WritableFile>& file);
  // Moves a closed file's bytes to the end of the moments file.
  Status AppendFrom(const std::string& path);
  std::string PathOf(const std::string& name) const;

  FileSystem& files_;
  std::string directory_;
  const ModelSpec& spec_;
  ModelVersion version_;
  std::vector<TensorInfo> value_tensors_, moment_tensors_;
  std::unique_ptr<WritableFile> values_, moments_;
  // Where the next shard goes.
  std::uint64_t values_offset_ = 0, moments_offset_ = 0;
};

}  // namespace fedmoe
