#include "storage/shard_writer.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "common/checksum.h"
#include "storage/manifest.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kCopyBytes = 1 << 20;
// Of shorter shards the last piece, beside which nothing goes on, is too much of the whole.
constexpr std::uint64_t kLeastBesideBytes = 4 << 20;
constexpr std::size_t kBesideElements = std::size_t{1} << 18;  // copied at a time

// The tensors of a shard, their names after `prefix`.
void AddTensors(const ModelSpec& spec, int shard, const std::string& prefix,
                std::vector<TensorInfo>& tensors) {
  for (const int index : spec.BlocksOf(shard)) {
    const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(index)];
    TensorInfo tensor;
    tensor.name = prefix + block.name;
    tensor.shape = block.shape;
    tensors.push_back(std::move(tensor));
  }
}

// A sink that counts, so that neither too few nor too many elements go unnoticed.
class CountedFile {
 public:
  CountedFile(WritableFile* file, std::uint64_t expected_bytes)
      : file_(file), expected_bytes_(expected_bytes) {}

  Status Append(std::span<const float> values) {
    const std::span<const std::byte> bytes = std::as_bytes(values);
    if (bytes.empty()) return Status::Ok();
    if (bytes.size() > expected_bytes_ - bytes_) return Internal("too many elements are given");
    bytes_ += bytes.size();
    FEDMOE_RETURN_IF_ERROR(file_->Append(bytes));
    file_->StartSync();  // while the rest is merged
    return Status::Ok();
  }
  Status CheckComplete() const {
    if (bytes_ == expected_bytes_) return Status::Ok();
    return Internal(std::to_string(bytes_ / sizeof(float)) + " of " +
                    std::to_string(expected_bytes_ / sizeof(float)) + " elements are given");
  }

 private:
  WritableFile* file_;
  std::uint64_t expected_bytes_;
  std::uint64_t bytes_ = 0;
};

// A thread that does one job after another, while its caller prepares the next.
class Beside {
 public:
  using Job = std::function<Status()>;

  ~Beside() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  // After Wait().
  void Start(Job job) {
    if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
    {
      const std::lock_guard lock(mutex_);
      job_ = std::move(job);
    }
    changed_.notify_all();
  }

  // For the job under way, if any. What became of the first one that failed.
  Status Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return job_ == nullptr; });
    return status_;
  }

 private:
  void Loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ending_ || job_ != nullptr; });
      if (job_ == nullptr) return;
      lock.unlock();
      Status status = job_();
      lock.lock();
      if (status_.ok()) status_ = std::move(status);
      job_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Job job_;
  Status status_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace

std::string TemporaryName(const std::string& name) { return name + ".tmp"; }

ShardWriter::ShardWriter(FileSystem& files, std::string directory, const ModelSpec& spec,
                         ModelVersion version, const std::vector<ShardContent>& changed)
    : files_(files), directory_(std::move(directory)), spec_(spec), version_(version) {
  for (const ShardContent& content : changed) {
    AddTensors(spec, content.shard, "", value_tensors_);
    if (content.moment_count > 0) AddTensors(spec, content.shard, "first.", moment_tensors_);
    if (content.moment_count > 1) AddTensors(spec, content.shard, "second.", moment_tensors_);
  }
}

std::string ShardWriter::PathOf(const std::string& name) const {
  return JoinPath(directory_, TemporaryName(name));
}

Status ShardWriter::BeginFile(const std::string& name, std::vector<TensorInfo>& tensors,
                              std::unique_ptr<WritableFile>& file) {
  const std::string header =
      SafetensorsHeader(tensors, {{"format", "fedmoe"}, {"version", std::to_string(version_)}});
  FEDMOE_ASSIGN_OR_RETURN(file, files_.Create(PathOf(name)));
  return file->Append(AsBytes(header));
}

Status ShardWriter::Begin() {
  if (value_tensors_.empty()) return Status::Ok();
  FEDMOE_RETURN_IF_ERROR(BeginFile(ValuesFileName(version_), value_tensors_, values_));
  values_offset_ = value_tensors_.front().offset;
  if (moment_tensors_.empty()) return Status::Ok();
  FEDMOE_RETURN_IF_ERROR(BeginFile(MomentsFileName(version_), moment_tensors_, moments_));
  moments_offset_ = moment_tensors_.front().offset;
  return Status::Ok();
}

// First moments go straight to their place; second ones, which come interleaved with them but stand
// after them, wait in a file of their own.
Result<StoredShard> ShardWriter::Write(const ShardContent& content) {
  const auto bytes = static_cast<std::uint64_t>(spec_.ShardBytes(content.shard));
  const std::string second_path = PathOf(MomentsFileName(version_) + ".second");
  std::unique_ptr<WritableFile> second_file;
  if (content.moment_count > 1) {
    FEDMOE_ASSIGN_OR_RETURN(second_file, files_.Create(second_path));
  }
  CountedFile values(values_.get(), bytes);
  CountedFile first(moments_.get(), content.moment_count > 0 ? bytes : 0);
  CountedFile second(second_file.get(), content.moment_count > 1 ? bytes : 0);
  Sha256 digest;
  ShardContent::Sinks sinks;
  const auto take = [&](std::span<const float> piece) {
    digest.Update(std::as_bytes(piece));
    return values.Append(piece);
  };
  // To digest a piece takes as long as to make it: the one goes on beside the other.
  std::vector<float> taken;
  Beside beside;
  sinks.values = [&](std::span<const float> piece) {
    if (bytes < kLeastBesideBytes) return take(piece);
    while (!piece.empty()) {
      const auto part = piece.first(std::min(piece.size(), kBesideElements));
      piece = piece.subspan(part.size());
      FEDMOE_RETURN_IF_ERROR(beside.Wait());
      taken.assign(part.begin(), part.end());
      beside.Start([&] { return take(taken); });
    }
    return Status::Ok();
  };
  sinks.first = [&](std::span<const float> piece) { return first.Append(piece); };
  sinks.second = [&](std::span<const float> piece) { return second.Append(piece); };
  const std::string name = "shard " + spec_.ShardName(content.shard);
  const Status written = content.write(sinks);
  const Status last = beside.Wait();
  FEDMOE_RETURN_IF_ERROR((written.ok() ? last : written).WithContext(name));
  FEDMOE_RETURN_IF_ERROR(values.CheckComplete().WithContext(name + ": values"));
  FEDMOE_RETURN_IF_ERROR(first.CheckComplete().WithContext(name + ": first moments"));
  FEDMOE_RETURN_IF_ERROR(second.CheckComplete().WithContext(name + ": second moments"));
  if (second_file != nullptr) {
    FEDMOE_RETURN_IF_ERROR(second_file->Close());
    FEDMOE_RETURN_IF_ERROR(AppendFrom(second_path));
  }
  StoredShard stored{.shard = content.shard,
                     .digest = digest.Finish(),
                     .file = ValuesFileName(version_),
                     .offset = values_offset_,
                     .bytes = bytes,
                     .steps = content.steps};
  values_offset_ += bytes;
  if (content.moment_count > 0) {
    stored.moments_file = MomentsFileName(version_);
    stored.moments_offset = moments_offset_;
    stored.moment_count = content.moment_count;
    moments_offset_ += bytes * static_cast<std::uint64_t>(content.moment_count);
  }
  return stored;
}

Status ShardWriter::AppendFrom(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<RandomAccessFile> file, files_.Open(path));
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file->Size());
  std::vector<std::byte> buffer(std::min(size, kCopyBytes));
  for (std::uint64_t at = 0; at < size; at += kCopyBytes) {
    const auto piece = std::span(buffer).first(std::min(kCopyBytes, size - at));
    FEDMOE_RETURN_IF_ERROR(file->ReadAt(at, piece));
    FEDMOE_RETURN_IF_ERROR(moments_->Append(piece));
  }
  return files_.Remove(path);
}

Status ShardWriter::Finish(bool sync) {
  for (const std::unique_ptr<WritableFile>& file : {std::ref(values_), std::ref(moments_)}) {
    if (file == nullptr) continue;
    if (sync) FEDMOE_RETURN_IF_ERROR(file->Sync());
    FEDMOE_RETURN_IF_ERROR(file->Close());
  }
  return Status::Ok();
}

void ShardWriter::Remove() {
  values_.reset();
  moments_.reset();
  for (const std::string& name : {ValuesFileName(version_), MomentsFileName(version_),
                                  MomentsFileName(version_) + ".second"}) {
    if (files_.Exists(PathOf(name))) static_cast<void>(files_.Remove(PathOf(name)));
  }
}

}  // namespace fedmoe
