#include "wire/credentials.h"

#include <ctime>
#include <filesystem>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <spdlog/spdlog.h>

#include "common/file_system.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxPemBytes = std::uint64_t{1} << 20;
constexpr int kSoonDays = 14;
constexpr int kSecondsOfDay = 86'400;

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

Owned<BIO> Memory(const std::string& pem) {
  return Owned<BIO>(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

Owned<X509> FirstCertificate(const std::string& pem) {
  return Owned<X509>(PEM_read_bio_X509(Memory(pem).get(), nullptr, nullptr, nullptr));
}

// No password is asked for on a terminal.
int NoPassword(char*, int, int, void*) { return -1; }

Owned<EVP_PKEY> KeyOf(const std::string& pem) {
  return Owned<EVP_PKEY>(PEM_read_bio_PrivateKey(Memory(pem).get(), nullptr, NoPassword, nullptr));
}

void WarnOfDates(const std::string& key, const std::string& path, const X509* certificate) {
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) {
    spdlog::warn("{}: {} is not valid yet", key, path);
  }
  std::time_t soon = std::time(nullptr) + kSoonDays * kSecondsOfDay;
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) {
    spdlog::warn("{}: {} has expired", key, path);
  } else if (X509_cmp_time(X509_get0_notAfter(certificate), &soon) < 0) {
    spdlog::warn("{}: {} expires within {} days", key, path, kSoonDays);
  }
}

Result<std::string> ReadPem(const std::string& key, const std::string& path) {
  Result<std::string> pem = ReadFile(PosixFileSystem(), path, kMaxPemBytes);
  if (!pem.ok()) return pem.status().WithContext(key);
  return pem;
}

Result<std::string> ReadCertificates(const std::string& key, const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(std::string pem, ReadPem(key, path));
  const Owned<X509> certificate = FirstCertificate(pem);
  if (certificate == nullptr) {
    return InvalidArgument(fmt::format("{}: {} holds no PEM certificate", key, path));
  }
  WarnOfDates(key, path, certificate.get());
  return pem;
}

struct KeyPair {
  std::string certificate;
  std::string key;
};

// `section`: "tls" or "server.tls".
Result<KeyPair> ReadKeyPair(const std::string& section, const std::string& certificate_path,
                            const std::string& key_path) {
  const std::string key_name = section + ".key";
  KeyPair pair;
  FEDMOE_ASSIGN_OR_RETURN(pair.certificate,
                          ReadCertificates(section + ".certificate", certificate_path));
  FEDMOE_ASSIGN_OR_RETURN(pair.key, ReadPem(key_name, key_path));
  const Owned<EVP_PKEY> key = KeyOf(pair.key);
  if (key == nullptr) {
    return InvalidArgument(
        fmt::format("{}: {} holds no PEM private key without a password", key_name, key_path));
  }
  if (X509_check_private_key(FirstCertificate(pair.certificate).get(), key.get()) != 1) {
    return InvalidArgument(
        fmt::format("{}: {} is not the key of {}", key_name, key_path, certificate_path));
  }
  std::error_code ignored;
  const auto others = std::filesystem::perms::group_all | std::filesystem::perms::others_all;
  if ((std::filesystem::status(key_path, ignored).permissions() & others) !=
      std::filesystem::perms::none) {
    spdlog::warn("{}: others may read {}; chmod 600 it", key_name, key_path);
  }
  return pair;
}

}  // namespace

Result<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerTlsOptions& options) {
  if (!options.enabled()) return grpc::InsecureServerCredentials();
  FEDMOE_ASSIGN_OR_RETURN(KeyPair own, ReadKeyPair("server.tls", options.certificate, options.key));
  grpc::SslServerCredentialsOptions credentials(
      options.mutual() ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                       : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  if (options.mutual()) {
    FEDMOE_ASSIGN_OR_RETURN(credentials.pem_root_certs,
                            ReadCertificates("server.tls.client_ca", options.client_ca));
  }
  credentials.pem_key_cert_pairs.push_back({std::move(own.key), std::move(own.certificate)});
  return grpc::SslServerCredentials(credentials);
}

Result<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ClientTlsOptions& options, grpc::ChannelArguments& arguments) {
  if (!options.enabled()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions credentials;
  FEDMOE_ASSIGN_OR_RETURN(credentials.pem_root_certs, ReadCertificates("tls.ca", options.ca));
  if (!options.certificate.empty()) {
    FEDMOE_ASSIGN_OR_RETURN(KeyPair own, ReadKeyPair("tls", options.certificate, options.key));
    credentials.pem_cert_chain = std::move(own.certificate);
    credentials.pem_private_key = std::move(own.key);
  }
  if (!options.server_name.empty()) arguments.SetSslTargetNameOverride(options.server_name);
  return grpc::SslCredentials(credentials);
}

}  // namespace fedmoe
