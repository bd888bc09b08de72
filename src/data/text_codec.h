// Text as ids of an alphabet. Internal to `data`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "data/data_options.h"

namespace fedmoe {

// One id a code point (of the alphabet `bytes`: a byte), appended to `ids`; what is outside the
// alphabet becomes kSubstituteId. `path` and `offset`, the place of the text in that file, are for
// the error:
//   INVALID_ARGUMENT "PATH: invalid UTF-8 at byte N; set data.text.alphabet to bytes to read it as
//   it is"
Status AppendIds(std::string_view text, TextAlphabet alphabet, const std::string& path,
                 std::size_t offset, std::vector<std::uint16_t>& ids);

// The first position from `position` on at which a code point begins, or the text's end.
std::size_t NextCodePoint(std::string_view text, std::size_t position, TextAlphabet alphabet);

// What one person says, in order.
struct Speaker {
  std::string name;
  // Offsets of its blocks, each with its name line and the blank line after it.
  struct Block {
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  std::vector<Block> blocks;
  std::size_t bytes = 0;  // of all blocks
};

// The speakers of a play: blocks separated by blank lines, the first line of a block "NAME:". A
// block without a name goes on with the speech before it, or belongs to nobody where there is none.
// In the order of the most text, then of the name.
std::vector<Speaker> FindSpeakers(std::string_view text);

}  // namespace fedmoe
