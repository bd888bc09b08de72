#include "common/text.h"

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TEST(ToUtf8Test, LeavesWellFormedTextAlone) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xED\x9F\xBF\xF4\x8F\xBF\xBF";
  EXPECT_EQ(ToUtf8(text, 100), text);
  EXPECT_EQ(ToUtf8("", 100), "");
}

TEST(ToUtf8Test, ReplacesEachByteThatIsNone) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(ToUtf8("caf\xE9.png", 100), "caf" + bad + ".png");
  EXPECT_EQ(ToUtf8("\xC0\xAF", 100), bad + bad) << "overlong";
  EXPECT_EQ(ToUtf8("\xE0\x9F\xBF", 100), bad + bad + bad) << "overlong";
  EXPECT_EQ(ToUtf8("\xED\xA0\x80", 100), bad + bad + bad) << "a surrogate";
  EXPECT_EQ(ToUtf8("\xF4\x90\x80\x80", 100), bad + bad + bad + bad) << "past U+10FFFF";
  EXPECT_EQ(ToUtf8("\xF5", 100), bad);
  EXPECT_EQ(ToUtf8("a\xE2\x82", 100), "a" + bad + bad) << "its end is missing";
}

TEST(ToUtf8Test, CutsNoCharacter) {
  const std::string euro = "\xE2\x82\xAC";
  EXPECT_EQ(ToUtf8("ab" + euro, 5), "ab" + euro);
  EXPECT_EQ(ToUtf8("ab" + euro, 4), "ab");
  EXPECT_EQ(ToUtf8("ab\xE2", 4), "ab");
  EXPECT_EQ(ToUtf8("abc", 0), "");
}

}  // namespace
}  // namespace fedmoe
