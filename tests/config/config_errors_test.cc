// What is said about a wrong configuration, word for word. `fleet:` makes the smallest valid file.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

struct Case {
  const char* name;
  std::string yaml;
  std::string message;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class CoordinatorErrorsTest : public ::testing::TestWithParam<Case> {};

TEST_P(CoordinatorErrorsTest, SaysWhatIsWrongAndWhere) {
  EXPECT_EQ(CoordinatorErrors(GetParam().yaml), GetParam().message);
}

std::string NameOf(const ::testing::TestParamInfo<Case>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(
    Keys, CoordinatorErrorsTest,
    ::testing::Values(
        Case{"UnknownKey", "fleet:\nrun:\n  clients:\n    mim: 2\n",
             "x.yaml:4: unknown key 'run.clients.mim' (did you mean 'run.clients.min'?)"},
        Case{"UnknownSectionOnce", "fleet:\nserve:\n  address: a:1\n  port: 3\n",
             "x.yaml:2: unknown key 'serve' (did you mean 'server'?)"},
        Case{"KeyOfAnotherSection", "fleet:\nrounds: 3\n",
             "x.yaml:2: unknown key 'rounds' (did you mean 'run.rounds'?)"},
        Case{"NothingNear", "fleet:\nzzzzzz: 3\n", "x.yaml:2: unknown key 'zzzzzz'"},
        Case{"ClientKey", "fleet:\ncoordinator: a:1\n",
             "x.yaml:2: unknown key 'coordinator' (it belongs to a client's configuration; a local "
             "fleet is set in 'fleet')"},
        Case{"KeySetByFleet", "fleet:\n  data:\n    client_index: 3\n",
             "x.yaml:3: unknown key 'fleet.data.client_index' (the fleet sets it for each client)"},
        Case{"Duplicate", "fleet:\nrun:\n  rounds: 3\n  rounds: 4\n",
             "x.yaml:4: duplicate key 'run.rounds' (first in line 3)"},
        Case{"DottedKey", "fleet:\nrun.rounds: 3\n",
             "x.yaml:2: key 'run.rounds' must not hold a dot: write its sections as nested keys"},
        Case{"KeyIsAMap", "fleet:\n? {a: b}\n: 3\n", "x.yaml:2: a key must be plain text"},
        Case{"SectionIsScalar", "fleet:\nrun: 5\n",
             "x.yaml:2: run must be a section of keys (got '5')"},
        Case{"KeyIsSection", "fleet:\nrun:\n  rounds:\n    many: 3\n",
             "x.yaml:3: run.rounds must be a whole number (got a section)"},
        Case{"MissingWithoutFleet", "name: a\n",
             "x.yaml: missing key 'model.inputs' (features of an example; a fleet's dataset would "
             "tell)\nx.yaml: missing key 'model.classes' (labels that an example can have; a "
             "fleet's dataset would tell)"}),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Values, CoordinatorErrorsTest,
    ::testing::Values(
        Case{"WholeNumber", "fleet:\nrun:\n  rounds: ten\n",
             "x.yaml:3: run.rounds must be a whole number (got 'ten')"},
        Case{"WholeNumberNotDecimal", "fleet:\nrun:\n  rounds: 1.5\n",
             "x.yaml:3: run.rounds must be a whole number (got '1.5')"},
        Case{"WholeNumberTooLong", "fleet:\nrun:\n  rounds: 99999999999999999999\n",
             "x.yaml:3: run.rounds must be a whole number (got '99999999999999999999')"},
        Case{"Nothing", "fleet:\nrun:\n  rounds:\n",
             "x.yaml:3: run.rounds must be a whole number (got nothing)"},
        Case{"List", "fleet:\nrun:\n  rounds: [1]\n",
             "x.yaml:3: run.rounds must be a whole number (got a list)"},
        Case{"Range", "fleet:\nrun:\n  rounds: 0\n",
             "x.yaml:3: run.rounds must be 1 to 1000000 (got 0)"},
        Case{"RangeWithoutEnd", "fleet:\nrun:\n  seed: -1\n",
             "x.yaml:3: run.seed must be at least 0 (got -1)"},
        Case{"Number", "fleet:\ntraining:\n  learning_rate: fast\n",
             "x.yaml:3: training.learning_rate must be a number (got 'fast')"},
        Case{"NumberNotFinite", "fleet:\ntraining:\n  learning_rate: nan\n",
             "x.yaml:3: training.learning_rate must be a number (got 'nan')"},
        Case{"NumberAbove", "fleet:\nrun:\n  quorum: 0\n",
             "x.yaml:3: run.quorum must be above 0 and at most 1 (got 0)"},
        Case{"NumberBelow", "fleet:\ntraining:\n  momentum: 1.0\n",
             "x.yaml:3: training.momentum must be at least 0 and below 1 (got 1.0)"},
        Case{"UpcycleNoise", "fleet:\nmodel:\n  upcycle: {checkpoint: a, noise: 11}\n",
             "x.yaml:3: model.upcycle.noise must be 0 to 10 (got 11)"},
        Case{"UpcycleNoiseAlone", "fleet:\nmodel:\n  upcycle: {noise: 0.5}\n",
             "x.yaml:3: model.upcycle.noise must be 0 without model.upcycle.checkpoint (got 0.5)"},
        Case{"RouterNumber", "fleet:\ntraining:\n  balance_lambda: 101\n",
             "x.yaml:3: training.balance_lambda must be 0 to 100 (got 101)"},
        Case{"BiasRate", "fleet:\ntraining:\n  selection_bias_rate: 1.5\n",
             "x.yaml:3: training.selection_bias_rate must be 0 to 1 (got 1.5)"},
        Case{"Crop", "fleet:\ntraining:\n  random_crop: 1025\n",
             "x.yaml:3: training.random_crop must be 0 to 1024 (got 1025)"},
        Case{"NumberRange", "fleet:\n  data:\n    domains: {mix: 1.01}\n",
             "x.yaml:3: fleet.data.domains.mix must be 0 to 1 (got 1.01)"},
        Case{"Boolean", "fleet:\nrun:\n  deterministic: yes\n",
             "x.yaml:3: run.deterministic must be true or false (got 'yes')"},
        Case{"Seconds", "fleet:\nserver:\n  poll_hold_s: 5s\n",
             "x.yaml:3: server.poll_hold_s must be a number (got '5s')"},
        Case{"SecondsRange", "fleet:\nserver:\n  poll_hold_s: 601\n",
             "x.yaml:3: server.poll_hold_s must be 0.01 to 600 (got 601)"},
        Case{"Text", "fleet:\nstorage:\n  directory: [a]\n",
             "x.yaml:3: storage.directory must be text (got a list)"},
        Case{"TextTilde", "fleet:\nstorage:\n  directory: ~\n",
             "x.yaml:3: storage.directory must be text (got nothing)"},
        Case{"TextTooLong", "fleet:\nstorage:\n  directory: " + std::string(5000, 'a') + "\n",
             "x.yaml:3: storage.directory must be at most 4096 bytes of text (got 5000)"},
        Case{"Name", "fleet:\nname: my run\n",
             "x.yaml:2: name must be 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', the "
             "first no dot (got 'my run')"},
        Case{"NameIsDirectory", "fleet:\nname: ..\n",
             "x.yaml:2: name must be 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', the "
             "first no dot (got '..')"},
        Case{"Address", "fleet:\nserver:\n  address: localhost\n",
             "x.yaml:3: server.address must read host:port with a port of 0 to 65535 (got "
             "'localhost')"},
        Case{"AddressPort", "fleet:\nserver:\n  address: localhost:65536\n",
             "x.yaml:3: server.address must read host:port with a port of 0 to 65535 (got "
             "'localhost:65536')"},
        Case{"ChoiceNear", "fleet:\nalignment:\n  strategy: ballanced\n",
             "x.yaml:3: alignment.strategy must be one of none, full, random, static, round_robin, "
             "greedy, load_only, balanced (got 'ballanced', did you mean 'balanced'?)"},
        Case{"ChoiceFar", "fleet:\ntraining:\n  optimizer: lbfgs\n",
             "x.yaml:3: training.optimizer must be one of sgd, adamw (got 'lbfgs')"},
        Case{"ChoiceOfWords", "fleet:\nlog:\n  level: warn\n",
             "x.yaml:3: log.level must be one of trace, debug, info, warning, error, off (got "
             "'warn')"},
        Case{"Preset", "fleet:\nmodel:\n  preset: x\n",
             "x.yaml:3: model.preset must be one of moe_mlp, moe_cnn, moe_transformer (got 'x')"},
        Case{"ListItem", "fleet:\n  capacity:\n    max_experts: [1, 2, -3]\n",
             "x.yaml:3: fleet.capacity.max_experts value 3 must be 0 to 4096 (got -3)"},
        Case{"ListItemType", "fleet:\n  capacity:\n    down_mbps: [1, fast]\n",
             "x.yaml:3: fleet.capacity.down_mbps value 2 must be a number (got 'fast')"},
        Case{"ListEmpty", "fleet:\n  capacity:\n    max_experts: []\n",
             "x.yaml:3: fleet.capacity.max_experts must hold at least one value (got an empty "
             "list)"},
        Case{"ListNested", "fleet:\n  capacity:\n    max_experts: [[1]]\n",
             "x.yaml:3: fleet.capacity.max_experts must be a whole number (got a list of more than "
             "scalars)"}),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    AcrossKeys, CoordinatorErrorsTest,
    ::testing::Values(
        Case{"TopK", "fleet:\nmodel:\n  experts: 8\n  top_k: 9\n",
             "x.yaml:4: model.top_k must be 1 to model.experts (got 9 > 8)"},
        Case{"TopKOfDefault", "fleet:\nmodel:\n  experts: 1\n",
             "x.yaml:3: model.top_k must be 1 to model.experts (got 2 > 1)"},
        Case{"PerRound", "fleet:\nrun:\n  clients:\n    per_round: 2\n    min: 4\n",
             "x.yaml:4: run.clients.per_round must be 0 or at least run.clients.min (got 2 < 4)"},
        Case{"Heartbeat", "fleet:\nrun:\n  heartbeat_timeout_s: 2.5\n",
             "x.yaml:3: server.heartbeat_interval_s must be below run.heartbeat_timeout_s (got 5 "
             ">= 2.5)"},
        Case{"ContextualWithoutASignalToPredict",
             "fleet:\nalignment:\n  exploration:\n    strategy: contextual\n",
             "x.yaml:4: alignment.exploration.strategy contextual predicts loss or accuracy: "
             "fitness.signal must be loss, accuracy or sum (got affinity)"},
        Case{"PlainBeyondThisMachine", "fleet:\nserver:\n  address: 0.0.0.0:7070\n",
             "x.yaml:3: server.address must be of this machine alone without TLS (got "
             "'0.0.0.0:7070'): set server.tls, or, within a network that you trust, "
             "server.allow_plaintext to true"},
        Case{"PlainAtANameThatLooksLikeThisMachine",
             "fleet:\nserver:\n  address: 127.example.lan:7070\n",
             "x.yaml:3: server.address must be of this machine alone without TLS (got "
             "'127.example.lan:7070'): set server.tls, or, within a network that you trust, "
             "server.allow_plaintext to true"},
        Case{"FewerConnectionsThanClients",
             "fleet:\nserver:\n  max_connections: 10\n  max_clients: 11\n",
             "x.yaml:3: server.max_connections must be 0, or no less than server.max_clients (got "
             "10 < 11)"},
        Case{"CertificateWithoutKey",
             "model: {inputs: 2, classes: 2}\nserver:\n  tls:\n    certificate: c.pem\n",
             "x.yaml:4: server.tls.certificate and server.tls.key must be given together"},
        Case{"ClientsCertificatesWithoutOnesOwn",
             "model: {inputs: 2, classes: 2}\nserver:\n  tls:\n    client_ca: c.pem\n",
             "x.yaml:4: server.tls.client_ca needs server.tls.certificate and server.tls.key"},
        Case{"TlsForALocalFleet",
             "fleet:\nserver:\n  tls:\n    certificate: c.pem\n    key: k.pem\n",
             "x.yaml:4: server.tls is for clients on other machines: leave it out, or the fleet "
             "section, whose clients are started on this one"},
        Case{"MomentsAreNotRounded",
             "fleet:\nmodel:\n  gate:\n    normalise: population\ntransfer:\n  up:\n"
             "    encoding: topk\n",
             "x.yaml:4: model.gate.normalise population needs transfer.up.encoding f32, bf16 or "
             "f16: moments do not bear more rounding"},
        Case{"MomentsAreNotRoundedOnTheirWayDown",
             "fleet:\nmodel:\n  gate:\n    normalise: population\ntransfer:\n  down:\n"
             "    encoding: int8\n",
             "x.yaml:4: model.gate.normalise population needs transfer.down.encoding f32, bf16 or "
             "f16: moments do not bear more rounding"},
        Case{"AModelNeedsAllOfItsValues", "fleet:\ntransfer:\n  down:\n    encoding: topk\n",
             "x.yaml:4: transfer.down.encoding must be one of f32, bf16, f16, int8, int4 (got "
             "'topk')"},
        Case{"MomentsAreNotStepped",
             "fleet:\nmodel:\n  gate:\n    normalise: population\naggregation:\n"
             "  learning_rate: 0.5\n",
             "x.yaml:4: model.gate.normalise population needs aggregation.optimizer fedavg, "
             "aggregation.learning_rate 1 and aggregation.rule mean: moments are averaged, no "
             "more"},
        Case{"Deterministic", "fleet:\nrun:\n  deterministic: true\n",
             "x.yaml:3: run.deterministic needs declared capacity: set fleet.capacity.measure to "
             "false"},
        Case{"ModelInputs", "model:\n  inputs: 784\nfleet:\n",
             "x.yaml:2: model.inputs must be fleet.data.domains.dimensions (got 784, not 32)"},
        Case{"ModelClasses", "model:\n  classes: 7\nfleet:\n",
             "x.yaml:2: model.classes must be at least fleet.data.domains.classes (got 7 < 8)"},
        Case{"LatentDimensions", "fleet:\n  data:\n    domains:\n      latent_dimensions: 33\n",
             "x.yaml:4: fleet.data.domains.latent_dimensions must be at most "
             "fleet.data.domains.dimensions (got 33 > 32)"},
        Case{"PartitionOfDomains", "fleet:\n  data:\n    partition:\n      kind: iid\n",
             "x.yaml:4: fleet.data.partition.kind must be none for the dataset domains, which "
             "generates each client's own examples"}),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Yaml, CoordinatorErrorsTest,
    ::testing::Values(
        Case{"Syntax", "fleet:\nrun: [1,\n",
             "x.yaml:3:1: not valid YAML: end of sequence flow not found"},
        Case{"Tab", "fleet:\nrun:\n\trounds: 3\n", "x.yaml:3:8: not valid YAML: illegal map value"},
        Case{"UnknownAlias", "name: *nobody\n",
             "x.yaml:1:7: not valid YAML: the referenced anchor is not defined"},
        Case{"TwoDocuments", "fleet:\n---\nfleet:\n",
             "x.yaml: one YAML document is expected (got more than one)"},
        // yaml-cpp finds documents without end in it.
        Case{"CommaFirst", ", x", "x.yaml: one YAML document is expected (got more than one)"},
        Case{"NotAMap", "- 1\n- 2\n", "x.yaml:1: must be a map of keys, as 'run:'"},
        Case{"EndlessAlias", "fleet: &a\n  data: *a\n",
             "x.yaml:2: more than 10000 keys, or keys nested more than 16 deep\n"
             "x.yaml:2: unknown key 'fleet.data.data' (did you mean 'fleet.data'?)"}),
    NameOf);

// A file of 1 MiB could otherwise unfold to gigabytes.
TEST(ConfigErrorsTest, AliasesUnfoldToABoundedNumberOfValues) {
  std::string list, keys;
  for (int i = 0; i < 4000; ++i) list += "1,";
  for (int i = 0; i < 2000; ++i) keys += "  k" + std::to_string(i) + ": *a\n";
  EXPECT_EQ(
      ClientErrors("name: a\ntraining: &a [" + list + "]\nmodel:\n" + keys),
      "x.yaml:2: unknown key 'training' (training options come from the coordinator with each "
      "task)\n"
      "x.yaml:3: unknown key 'model' (it belongs to the coordinator's configuration)\n"
      "x.yaml:5: more than 10000 values in lists");
}

TEST(ConfigErrorsTest, AllErrorsAreReportedAtOnceInFileOrderThenInOverrideOrder) {
  EXPECT_EQ(CoordinatorErrors("run:\n"
                              "  rounds: 0\n"
                              "  round: 3\n"
                              "  clients:\n"
                              "    per_round: 1\n"
                              "    min: 2\n"
                              "model:\n"
                              "  top_k: two\n"
                              "name: \"\"\n",
                              {"training.epochs=0", "model.experts=x", "alignment.slack=1"}),
            "x.yaml:2: run.rounds must be 1 to 1000000 (got 0)\n"
            "x.yaml:3: unknown key 'run.round' (did you mean 'run.rounds'?)\n"
            "x.yaml:5: run.clients.per_round must be 0 or at least run.clients.min (got 1 < 2)\n"
            "x.yaml:8: model.top_k must be a whole number (got 'two')\n"
            "x.yaml:9: name must be 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', the "
            "first no dot (got '')\n"
            "x.yaml: missing key 'model.inputs' (features of an example; a fleet's dataset would "
            "tell)\n"
            "x.yaml: missing key 'model.classes' (labels that an example can have; a fleet's "
            "dataset would tell)\n"
            "--set training.epochs=0: training.epochs must be 1 to 1000 (got 0)\n"
            "--set model.experts=x: model.experts must be a whole number (got 'x')");
}

TEST(ConfigErrorsTest, OverridesNameThemselves) {
  EXPECT_EQ(CoordinatorErrors("fleet:\n", {"model.top_k=x"}),
            "--set model.top_k=x: model.top_k must be a whole number (got 'x')");
  EXPECT_EQ(CoordinatorErrors("fleet:\n", {"model.topk=3"}),
            "--set model.topk=3: unknown key 'model.topk' (did you mean 'model.top_k'?)");
  EXPECT_EQ(CoordinatorErrors("fleet:\n", {"model.top_k=9"}),
            "--set model.top_k=9: model.top_k must be 1 to model.experts (got 9 > 8)");
  EXPECT_EQ(CoordinatorErrors("fleet:\n", {"run.rounds"}),
            "--set run.rounds: must read key.path=value");
  EXPECT_EQ(CoordinatorErrors("fleet:\n", {"=3"}), "--set =3: must read key.path=value");
  EXPECT_EQ(CoordinatorErrors("fleet:\n", {"name=\"a"}),
            "--set name=\"a: the value is not valid YAML");
  EXPECT_EQ(CoordinatorErrors("fleet:\n", {"run={rounds: 3}", "run.rounds=x"}),
            "--set run={rounds: 3}: run must be a section of keys (got '{rounds: 3}')\n"
            "--set run.rounds=x: run.rounds must be a whole number (got 'x')");
  EXPECT_EQ(CoordinatorErrors("fleet:\n", {"run.rounds="}),
            "--set run.rounds=: run.rounds must be a whole number (got '')");
}

TEST(ConfigErrorsTest, AnErrorAcrossKeysStandsWhereTheLastSettingStands) {
  EXPECT_EQ(CoordinatorErrors("model:\n  top_k: 3\nfleet:\n", {"model.top_k=9"}),
            "--set model.top_k=9: model.top_k must be 1 to model.experts (got 9 > 8)");
}

TEST(ConfigErrorsTest, ControlCharactersAndLongTextDoNotReachTheMessage) {
  EXPECT_EQ(CoordinatorErrors("fleet:\nrun:\n  rounds: \"1\\n2\\e\"\n"),
            "x.yaml:3: run.rounds must be a whole number (got '1?2?')");
  EXPECT_EQ(CoordinatorErrors("fleet:\nrun:\n  rounds: " + std::string(100, 'a') + "\n"),
            "x.yaml:3: run.rounds must be a whole number (got '" + std::string(64, 'a') + "...')");
  EXPECT_EQ(CoordinatorErrors("fleet:\n" + std::string(100, 'a') + ": 1\n"),
            "x.yaml:2: unknown key '" + std::string(64, 'a') + "...'");
}

TEST(ConfigErrorsTest, EveryErrorIsAnInvalidArgument) {
  EXPECT_EQ(LoadCoordinator("run:\n").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(LoadCoordinator("a: [\n").status().code(), StatusCode::kInvalidArgument);
}

TEST(ConfigErrorsTest, AMissingFileIsNotFound) {
  TempDir directory;
  const std::string path = directory.File("none.yaml");
  const Status status = LoadCoordinatorConfig({.path = path, .overrides = {}}).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "open " + path + ": No such file or directory");
}

TEST(ConfigErrorsTest, AFileOverOneMebibyteIsNotRead) {
  const std::string comment = "# " + std::string((1 << 20) - 2, 'a');
  const Status status = LoadCoordinator(comment + "\n").status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "x.yaml is 1048577 bytes, over the limit of 1048576");
  EXPECT_EQ(CoordinatorErrors("fleet:\n#" + std::string((1 << 20) - 9, 'a') + "\n"), "accepted");
}

}  // namespace
}  // namespace fedmoe
