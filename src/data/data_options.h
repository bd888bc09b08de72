// What data a node trains or evaluates on. Plain options without a body, so that `config` may
// include this header.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fedmoe {

enum class DatasetKind {
  kDomains,      // "domains": the embedded, generated mixture of latent domains; needs no file
  kIdx,          // "idx": MNIST and its kin, IDX files, gzip or raw
  kImageFolder,  // "image_folder": JPEG and PNG files, one folder a class
  kCifarBinary,  // "cifar_binary": the binary version of CIFAR-10 or CIFAR-100
  kCsv,          // "csv": numbers in a table, one of whose columns is the label
  kText,         // "text": characters, each of which is to be predicted from those before it
};

// What the labels of a domain are made from; see docs/datasets.md.
enum class DomainsVariant {
  kPermuted,   // one teacher, the labels permuted by domain (default)
  kConcept,    // an independent teacher for each domain
  kCovariate,  // one labelling function: domains differ in the inputs only
  kHidden,     // as permuted, but the inputs do not tell the domain (no separation)
};

struct DomainsOptions {
  DomainsVariant variant = DomainsVariant::kPermuted;
  int domains = 8;
  int latent_dimensions = 4;
  int dimensions = 32;  // of x
  int classes = 8;
  int teacher_width = 8;
  double separation = 3.0;  // length of the domain's offset in x
  double noise = 0.1;       // standard deviation of the noise on x
  double mix = 0.2;         // share of a client's examples from one other domain
  int examples = 512;       // of one client before the hold-out, or of the test set
  std::uint64_t seed = 1;
};

// image_folder; cifar_binary reads `mean` and `deviation` alone.
struct ImageOptions {
  int size = 0;      // pixels a side, resized and cropped; 0: as the first image
  int channels = 3;  // 1 (grey) or 3 (red, green, blue)
  // A channel's pixels become (byte / 255 - mean) / deviation; one value for all channels, or one
  // for each.
  std::vector<double> mean = {0.5};
  std::vector<double> deviation = {0.5};
  // A node's images are decoded when they are loaded if they take at most this many bytes then,
  // else each time that they are needed.
  std::uint64_t memory_bytes = std::uint64_t{512} << 20;
};

struct CsvOptions {
  std::string label;        // the label's column; empty: the last
  int classes = 0;          // 0: the greatest label + 1
  bool standardise = true;  // features to mean 0 and deviation 1 over the node's training examples
};

enum class TextAlphabet {
  kAscii,  // "ascii": code points below 128
  kLatin,  // "latin": code points below 384 (Latin-1 and Latin Extended-A)
  kBytes,  // "bytes": the file's bytes, in whatever encoding
};

// How many ids an alphabet has. An id is the code point, or kSubstituteId for one outside.
constexpr int AlphabetSize(TextAlphabet alphabet) {
  if (alphabet == TextAlphabet::kAscii) return 128;
  return alphabet == TextAlphabet::kLatin ? 384 : 256;
}
inline constexpr int kSubstituteId = 26;  // the control character SUB

struct TextOptions {
  int context = 64;  // characters that an example shows
  TextAlphabet alphabet = TextAlphabet::kAscii;
  double test_fraction = 0.1;  // of a single file: its end is the global test set
};

enum class PartitionKind {
  kNone,              // "none": the node's own files, whole (a real fleet)
  kIid,               // "iid"
  kClassesPerClient,  // "classes_per_client"
  kDirichlet,         // "dirichlet"
  kFiles,             // "files": text, one file a client
  kSpeakers,          // "speakers": text, one speaker of a play a client
};

// How an experiment splits one dataset over clients. Every node computes the same split from the
// same seed.
struct PartitionOptions {
  PartitionKind kind = PartitionKind::kNone;
  int clients = 1;
  double alpha = 0.3;          // dirichlet: concentration
  int classes_per_client = 2;  // classes_per_client
  int min_examples = 10;       // dirichlet: the smallest share that a client may get
  std::uint64_t seed = 1;
};

struct DataOptions {
  DatasetKind dataset = DatasetKind::kDomains;
  std::string path;      // where the dataset's files are; `domains` has none
  int client_index = 0;  // which part of the partition, or which client of `domains`; from 0
  DomainsOptions domains;
  PartitionOptions partition;
  double holdout_fraction = 0.2;  // kept back from training for personalised accuracy; [0, 0.9]
  // Of a client before the hold-out; drawn once by the seed. 0: all.
  std::int64_t max_examples = 0;
  // Of a test set, likewise. 0: max_examples.
  std::int64_t max_test_examples = 0;
  ImageOptions image;
  CsvOptions csv;
  TextOptions text;
};

}  // namespace fedmoe
