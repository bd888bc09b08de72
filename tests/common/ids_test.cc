#include "common/ids.h"

#include <string>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TEST(ClientIds, AreLettersDigitsDotsUnderscoresAndHyphens) {
  for (const char* name : {"a", "client-01", "edge_node.7", "AZaz09", ".", "-"}) {
    EXPECT_TRUE(IsValidClientId(name)) << name;
  }
  for (const char* name : {"a b", "a/b", "a\n", "\xC3\xA9", "a:b", "a@", "a[", "a`", "a{"}) {
    EXPECT_FALSE(IsValidClientId(name)) << name;
  }
  EXPECT_FALSE(IsValidClientId(std::string("a\0b", 3)));
}

TEST(ClientIds, HaveOneToSixtyFourCharacters) {
  EXPECT_FALSE(IsValidClientId(""));
  EXPECT_TRUE(IsValidClientId(std::string(64, 'x')));
  EXPECT_FALSE(IsValidClientId(std::string(65, 'x')));
}

}  // namespace
}  // namespace fedmoe
