#include "storage/journal.h"

#include <utility>

#include <sqlite3.h>

#include "storage/sqlite_hook.h"
#include "storage/state_json.h"

namespace fedmoe {
namespace {

constexpr char kSchema[] =
    "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "CREATE TABLE events (sequence INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL);"
    "CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), state TEXT NOT NULL);";

StatusCode CodeOfSqlite(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return StatusCode::kResourceExhausted;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return StatusCode::kDataLoss;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return StatusCode::kFailedPrecondition;
    default:
      return StatusCode::kInternal;
  }
}

// A prepared statement; finalised on destruction.
class Statement {
 public:
  Statement(sqlite3* handle, const char* sql)
      : code_(sqlite3_prepare_v2(handle, sql, -1, &statement_, nullptr)) {}
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  // `text` must outlive the statement's steps.
  void Bind(int index, const std::string& text) {
    if (code_ != SQLITE_OK) return;
    code_ = sqlite3_bind_text64(statement_, index, text.data(), text.size(), SQLITE_STATIC,
                                SQLITE_UTF8);
  }
  void BindAll(const std::vector<std::string>& texts) {
    for (std::size_t i = 0; i < texts.size(); ++i) Bind(static_cast<int>(i) + 1, texts[i]);
  }
  // SQLITE_ROW, SQLITE_DONE, or the first error.
  int Step() { return code_ == SQLITE_OK ? sqlite3_step(statement_) : code_; }
  void Reset() { sqlite3_reset(statement_); }

  int Number(int column) const { return sqlite3_column_int(statement_, column); }

  std::string Text(int column) const {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    const int length = sqlite3_column_bytes(statement_, column);
    return text == nullptr ? std::string() : std::string(text, static_cast<std::size_t>(length));
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int code_;
};

}  // namespace

// The connection. Every failure names the path and gives SQLite's message.
struct Journal::Database {
  std::string path;
  std::unique_ptr<SqliteHook> hook;  // outlives the handle
  sqlite3* handle = nullptr;

  // Of every commit; prepared with the first.
  std::unique_ptr<Statement> begin, insert, commit;

  ~Database() {
    for (std::unique_ptr<Statement>* each : {&begin, &insert, &commit}) each->reset();
    sqlite3_close(handle);
  }

  Status Failure(int code) const {
    const char* message = handle != nullptr ? sqlite3_errmsg(handle) : sqlite3_errstr(code);
    return {CodeOfSqlite(code), path + ": " + message};
  }

  Status Execute(const char* sql) {
    const int code = sqlite3_exec(handle, sql, nullptr, nullptr, nullptr);
    return code == SQLITE_OK ? Status::Ok() : Failure(code);
  }

  // One step of a statement that is kept, with `text` bound to its parameter if there is one.
  Status Step(std::unique_ptr<Statement>& kept, const char* sql,
              const std::string* text = nullptr) {
    if (kept == nullptr) kept = std::make_unique<Statement>(handle, sql);
    if (text != nullptr) kept->Bind(1, *text);
    const int code = kept->Step();
    const Status status = code == SQLITE_DONE ? Status::Ok() : Failure(code);
    // One that could not be prepared is tried again.
    if (status.ok()) {
      kept->Reset();
    } else {
      kept.reset();
    }
    return status;
  }

  Status Run(const char* sql, const std::vector<std::string>& texts) {
    Statement statement(handle, sql);
    statement.BindAll(texts);
    const int code = statement.Step();
    return code == SQLITE_DONE ? Status::Ok() : Failure(code);
  }

  // The whole number that a pragma answers with; -1 for none.
  Result<int> QueryNumber(const char* sql) const {
    Statement statement(handle, sql);
    const int code = statement.Step();
    if (code == SQLITE_ROW) return statement.Number(0);
    return code == SQLITE_DONE ? Result<int>(-1) : Result<int>(Failure(code));
  }

  // The text of the first row's first column; nullopt where there is no row.
  Result<std::optional<std::string>> Query(const char* sql,
                                           const std::vector<std::string>& texts = {}) const {
    Statement statement(handle, sql);
    statement.BindAll(texts);
    const int code = statement.Step();
    if (code == SQLITE_ROW) return std::optional(statement.Text(0));
    if (code == SQLITE_DONE) return std::optional<std::string>();
    return Failure(code);
  }

  // `body` between BEGIN and COMMIT; rolled back where any of it fails.
  template <typename Body>
  Status Transaction(Body body) {
    FEDMOE_RETURN_IF_ERROR(Step(begin, "BEGIN IMMEDIATE"));
    Status status = body();
    if (status.ok()) status = Step(commit, "COMMIT");
    // Some errors have rolled back by themselves; then this has nothing to do and says so.
    if (!status.ok()) static_cast<void>(Execute("ROLLBACK"));
    return status;
  }

  Status InsertEvents(const std::vector<std::string>& events) {
    for (const std::string& event : events) {
      FEDMOE_RETURN_IF_ERROR(Step(insert, "INSERT INTO events (event) VALUES (?)", &event));
    }
    return Status::Ok();
  }

  Status CreateSchema() {
    return Transaction([this]() -> Status {
      FEDMOE_RETURN_IF_ERROR(Execute(kSchema));
      const std::string sql = "PRAGMA user_version = " + std::to_string(kJournalSchemaVersion);
      return Execute(sql.c_str());
    });
  }

  // The lock is taken before anything is read.
  Status Prepare(Durability durability) {
    FEDMOE_RETURN_IF_ERROR(Execute("PRAGMA locking_mode = EXCLUSIVE"));
    FEDMOE_RETURN_IF_ERROR(Execute("PRAGMA journal_mode = WAL"));
    const bool full = durability == Durability::kFull;
    FEDMOE_RETURN_IF_ERROR(
        Execute(full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = OFF"));
    FEDMOE_RETURN_IF_ERROR(Execute("PRAGMA journal_size_limit = 4194304"));
    FEDMOE_ASSIGN_OR_RETURN(const int schema, QueryNumber("PRAGMA user_version"));
    if (schema == 0) return CreateSchema();
    if (schema != kJournalSchemaVersion) {
      return FailedPrecondition(path + ": journal schema " + std::to_string(schema) +
                                ", this build reads " + std::to_string(kJournalSchemaVersion) +
                                ": resume with the build that began the run, or begin a new run");
    }
    FEDMOE_ASSIGN_OR_RETURN(const auto check, Query("PRAGMA quick_check(1)"));
    const std::string answer = check.value_or("no answer");
    if (answer != "ok") return DataLoss(path + ": " + answer);
    return Status::Ok();
  }
};

Journal::Journal() : database_(std::make_unique<Database>()) {}
Journal::~Journal() = default;

Result<std::unique_ptr<Journal>> Journal::Open(const std::string& path, DiskHook* hook,
                                               Durability durability) {
  std::unique_ptr<Journal> journal(new Journal());
  Database& database = *journal->database_;
  database.path = path;
  if (hook != nullptr) database.hook = std::make_unique<SqliteHook>(*hook);
  const int code =
      sqlite3_open_v2(path.c_str(), &database.handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                      hook != nullptr ? database.hook->name() : nullptr);
  if (code != SQLITE_OK) return database.Failure(code);
  FEDMOE_RETURN_IF_ERROR(database.Prepare(durability));
  return journal;
}

Status Journal::SetFact(const std::string& key, const std::string& value) {
  return database_->Run("INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", {key, value});
}

Result<std::optional<std::string>> Journal::Fact(const std::string& key) const {
  return database_->Query("SELECT value FROM facts WHERE key = ?", {key});
}

void Journal::Append(const Event& event) { queue_.push_back(EventToJson(event)); }

Status Journal::Commit() {
  FEDMOE_RETURN_IF_ERROR(Write(queue_));
  queue_.clear();
  return Status::Ok();
}

Status Journal::Write(const Batch& batch) {
  if (batch.empty()) return Status::Ok();
  // A statement alone is a transaction of its own.
  if (batch.size() == 1) return database_->InsertEvents(batch);
  return database_->Transaction([&] { return database_->InsertEvents(batch); });
}

// The events in the queue are part of the state that is given, so they need no row of their own.
Status Journal::Snapshot(const RoundState& state) {
  const std::string text = StateToJson(state);
  // JSON has no number that is not finite; a run must not be left with a state that cannot be read.
  if (const Status readable = StateFromJson(text).status(); !readable.ok()) {
    return Internal(database_->path + ": the state cannot be read back: " + readable.message());
  }
  FEDMOE_RETURN_IF_ERROR(database_->Transaction([&]() -> Status {
    FEDMOE_RETURN_IF_ERROR(database_->Run("DELETE FROM events", {}));
    return database_->Run("INSERT OR REPLACE INTO snapshot (id, state) VALUES (1, ?)", {text});
  }));
  queue_.clear();
  return Status::Ok();
}

Result<std::optional<RecoveredRun>> Journal::Recover() const {
  const auto damaged = [this](const Status& status) {
    return DataLoss(database_->path + ": " + status.message());
  };
  FEDMOE_ASSIGN_OR_RETURN(const auto text,
                          database_->Query("SELECT state FROM snapshot WHERE id = 1"));
  if (!text) return std::optional<RecoveredRun>();
  Result<RoundState> state = StateFromJson(*text);
  if (!state.ok()) return damaged(state.status());
  RecoveredRun run{.snapshot = std::move(state).value(), .events = {}};
  Statement select(database_->handle, "SELECT event FROM events ORDER BY sequence");
  int code = select.Step();
  for (; code == SQLITE_ROW; code = select.Step()) {
    Result<Event> event = EventFromJson(select.Text(0));
    if (!event.ok()) return damaged(event.status());
    run.events.push_back(std::move(event).value());
  }
  if (code != SQLITE_DONE) return database_->Failure(code);
  return std::optional(std::move(run));
}

}  // namespace fedmoe
