#include <string>
#include <vector>

#include "tests/data/image_files.h"
#include "tests/fuzz/dataset_case.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/seeds.h"

namespace fedmoe {
namespace {

constexpr int kSet = 8, kLatin = 16, kBytes = 32, kBounded = 64, kSecondClient = 128;
constexpr int kPartitions = 6;
constexpr std::size_t kCifarPixels = 3 * 32 * 32;

SeedInput Begin(DatasetCase dataset, int options) {
  return SeedInput().Byte(static_cast<int>(dataset)).Byte(options);
}

class DatasetSeedList {
 public:
  void Add(const std::string& name, const SeedInput& seed) {
    seeds_.push_back({name, seed.bytes()});
  }
  void AddIdx(const std::string& name, int options, const std::string& labels,
              const std::string& images) {
    Add("idx_" + name, Begin(DatasetCase::kIdx, options).Sized(labels).Rest(images));
    Add("idx_gz_" + name,
        Begin(DatasetCase::kIdxGzip, options).Sized(Gzip(labels)).Rest(Gzip(images)));
  }
  void AddCsv(const std::string& name, int options, const std::string& train,
              const std::string& test) {
    Add("csv_" + name, Begin(DatasetCase::kCsv, options).Sized(train).Rest(test));
  }
  void AddText(const std::string& name, int options, const std::string& text) {
    Add("text_" + name, Begin(DatasetCase::kTextFile, options).Rest(text));
  }
  std::vector<Seed> Take() { return std::move(seeds_); }

 private:
  std::vector<Seed> seeds_;
};

const std::string kTwelveLabels("\0\1\2\3\0\1\2\3\0\1\2\3", 12);

void AddIdxSeeds(DatasetSeedList& seeds) {
  const std::string labels = LabelsFile(kTwelveLabels);
  const std::string pixels(12 * 6, '\x40');
  const std::string images = ImagesFile(12, 2, 3, pixels);
  for (int partition = 0; partition < kPartitions; ++partition) {
    seeds.AddIdx("partition_" + std::to_string(partition), partition, labels, images);
  }
  seeds.AddIdx("second_client", 1 | kSecondClient, labels, images);
  seeds.AddIdx("bounded", kBounded, labels, images);
  seeds.AddIdx("bad_empty", 0, "", "");
  seeds.AddIdx("bad_header", 0, labels.substr(0, 6), images);
  seeds.AddIdx("bad_magic", 0, images, labels);
  seeds.AddIdx("bad_none", 0, LabelsFile(""), images);
  seeds.AddIdx("bad_label", 0, LabelsFile("\x0c"), images);
  seeds.AddIdx("bad_count", 0, labels, ImagesFile(11, 2, 3, pixels.substr(6)));
  seeds.AddIdx("bad_sides", 0, labels, ImagesFile(12, 0, 5000, pixels));
  seeds.AddIdx("bad_truncated", 0, labels, ImagesFile(12, 2, 3, pixels.substr(1)));
  seeds.AddIdx("bad_rest", 0, labels, images + "more");
  seeds.AddIdx("bad_huge", 0, labels, ImagesFile(0xffffffff, 4096, 4096, pixels));
  seeds.AddIdx("bad_large", 0, labels, ImagesFile(12, 4096, 4096, pixels));
  const std::string packed = Gzip(labels);
  seeds.Add("gz_bad_cut", Begin(DatasetCase::kIdxGzip, 0).Sized(packed.substr(0, 20)).Rest(packed));
  seeds.Add("gz_bad_damaged", Begin(DatasetCase::kIdxGzip, 0)
                                  .Sized("\x1f\x8b"
                                         "xxxx")
                                  .Rest(""));
  seeds.Add("gz_two_members", Begin(DatasetCase::kIdxGzip, 0)
                                  .Sized(Gzip(labels.substr(0, 9)) + Gzip(labels.substr(9)))
                                  .Rest(Gzip(images)));
}

void AddCsvSeeds(DatasetSeedList& seeds) {
  const std::string good =
      "\xef\xbb\xbf"
      "a, b,\"y\"\r\n1,2,0\n\n+3, -4e2 ,1\n\"5\",0.5,2\n7,8,\"0\"\n9,1,1\n2,2,2\n";
  for (int partition = 0; partition < 4; ++partition) {
    seeds.AddCsv("partition_" + std::to_string(partition), partition, good, good);
  }
  seeds.AddCsv("label", kSet, "y,a\n1,2\n4,5\n", "y,a\n0,1\n");
  seeds.Add("csv_test_alone", Begin(DatasetCase::kCsvTestAlone, kBounded).Rest(good));
  seeds.AddCsv("bad_empty", 0, "", "\n\n");
  seeds.AddCsv("bad_header_alone", 0, "a,b\n", "a,b\n");
  seeds.AddCsv("bad_one_column", 0, "a\n1\n", "a\n1\n");
  seeds.AddCsv("bad_no_label", kSet, "a,b\n1,2\n", "a,b\n1,2\n");
  seeds.AddCsv("bad_fields", 0, "a,b\n1,2,3\n", "a,b\n1\n");
  seeds.AddCsv("bad_number", 0, "a,b\n1e99,2\n", "a,b\nx,2\n");
  seeds.AddCsv("bad_label", 0, "a,b\n1,-2\n", "a,b\n1,1048576\n");
  seeds.AddCsv("bad_class", kSet, "a,y\n1,5\n", "a,y\n1,9\n");
  seeds.AddCsv("bad_quote", 0, "a,\"b\n1,2\n", "a,\"b\"c\n");
  seeds.AddCsv("bad_long", 0, "a,b\n" + std::string(60, 'x') + ",\2\n", "a,b\n1,\"2\"\"3\"\n");
  seeds.AddCsv("bad_columns", 0, "a,b\n1,2\n1,1\n", "c,b\n1,2\n");
}

void AddCifarSeeds(DatasetSeedList& seeds) {
  const auto record = [](const std::string& labels) {
    return labels + std::string(kCifarPixels, '\x20');
  };
  const std::string ten = record(std::string(1, '\3')), hundred = record("\1\x63");
  seeds.Add("cifar10", Begin(DatasetCase::kCifar10, 0).Rest(ten));
  seeds.Add("cifar10_bounded", Begin(DatasetCase::kCifar10, 1 | kSet | kBounded).Rest(ten));
  seeds.Add("cifar10_bad_label", Begin(DatasetCase::kCifar10, 0).Rest(record("\x0a")));
  seeds.Add("cifar10_bad_length", Begin(DatasetCase::kCifar10, 0).Rest(ten + "x"));
  seeds.Add("cifar100", Begin(DatasetCase::kCifar100, 0).Rest(hundred + hundred));
  seeds.Add("cifar100_bad_label", Begin(DatasetCase::kCifar100, 0).Rest(record("\1\x64")));
  seeds.Add("cifar100_bad_empty", Begin(DatasetCase::kCifar100, 0));
}

void AddTextSeeds(DatasetSeedList& seeds) {
  const std::string play =
      "nobody speaks\n\nANNA:\nto be or not to be\n\nBEN:\r\nthat is the question\r\n\r\nCARA:\n"
      "whether it is nobler in the mind\n\nto suffer\n\nANNA:\nthe slings and arrows\n\nBEN:\nof "
      "outrageous fortune and so on and on\n";
  const std::string wide = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 more of the same, and then some";
  for (int partition = 0; partition < kPartitions; ++partition) {
    const std::string name = "partition_" + std::to_string(partition);
    seeds.AddText(name, partition, play);
    seeds.AddText(name + "_long_context", partition | kSet | kSecondClient, play);
    seeds.Add("texts_" + name,
              Begin(DatasetCase::kTextFolder, partition | kBounded).Sized(play).Rest(wide));
  }
  seeds.AddText("latin", kLatin, wide);
  seeds.AddText("latin_bounded", kLatin | kBounded, wide);
  seeds.AddText("bytes", kBytes, "\xff\xfe" + wide);
  seeds.AddText("bad_empty", 0, "");
  seeds.AddText("bad_short", 0, "ab");
  seeds.AddText("bad_lead", 0, "valid until here \xff and on");
  seeds.AddText("bad_continuation", 0, "valid until here \xc3( and on");
  seeds.AddText("bad_overlong", 0, "valid until here \xe0\x80\x80 and on");
  seeds.AddText("bad_surrogate", 0, "valid until here \xed\xa0\x80 and on");
  seeds.AddText("bad_cut", 0, "valid until here \xe2\x82");
}

void AddFolderSeeds(DatasetSeedList& seeds) {
  const std::string png = GreyPng(5, 4, 90);
  const std::string jpeg = Jpeg(6, 3, 3, std::vector<std::uint8_t>(54, 70));
  const auto add = [&](const std::string& name, int options, const std::string& classes,
                       const std::string& second) {
    seeds.Add("images_" + name,
              Begin(DatasetCase::kImageFolder, options).Sized(classes).Sized(png).Rest(second));
  };
  add("small", 0, "cat\ndog\n", jpeg);
  add("as_the_first", kSet | kLatin, "cat\r\n\ndog", jpeg);
  add("on_disk", kLatin, "dog\ncat", jpeg);
  add("in_memory", kBytes, "dog\ncat", jpeg);
  add("partition", 1 | kBounded, "cat\ndog\nbird", jpeg);
  add("bad_classes", 0, "cat\nbird\n", jpeg);
  add("bad_no_classes", 0, "\n", jpeg);
  add("bad_image", 0, "cat\ndog\n", "no image");
  for (const char* name : {"cifar.tar.xz", "_batch_1.bin", "notes"}) {
    seeds.Add(std::string("without_") + name, Begin(DatasetCase::kFolderWithout, 0).Rest(name));
  }
}

}  // namespace

std::vector<Seed> DatasetSeeds() {
  DatasetSeedList seeds;
  AddIdxSeeds(seeds);
  AddCsvSeeds(seeds);
  AddCifarSeeds(seeds);
  AddTextSeeds(seeds);
  AddFolderSeeds(seeds);
  return seeds.Take();
}

}  // namespace fedmoe
