#!/usr/bin/python3
"""Who may join: TLS, certificates as identities, revocation while running, and the audit log."""

import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import (BIN, ROOT, EndToEndTest, free_port, main, outcomes, read_reports, read_summary,  # noqa: E402
                        run_program)


def make_certificates(folder, *arguments):
    subprocess.run([str(ROOT / "scripts/make_certificates"), str(folder), *arguments], check=True, capture_output=True)


class SecurityTest(EndToEndTest):
    def setUp(self):
        super().setUp()
        self.pem = self.folder / "pem"
        make_certificates(self.pem, "--server", "localhost,127.0.0.1", "--client", "node-0", "--client", "node-1", "--client",
                          "mallory", "--admin", "admin")

    def tls_server(self, mutual=True, **changes):
        tls = {"certificate": str(self.pem / "server.pem"), "key": str(self.pem / "server.key")}
        if mutual:
            tls["client_ca"] = str(self.pem / "ca.pem")
        return {"tls": tls, "heartbeat_interval_s": 0.2, **changes}

    def tls_client(self, certificate):
        tls = {"ca": str(self.pem / "ca.pem")}
        if certificate:
            tls.update(certificate=str(self.pem / f"{certificate}.pem"), key=str(self.pem / f"{certificate}.key"))
        return {"tls": tls, "retry": {"limit_s": 2}}

    def admin(self, *command, certificate="admin"):
        own = []
        if certificate:
            own = ["--certificate", self.pem / f"{certificate}.pem", "--key", self.pem / f"{certificate}.key"]
        return run_program("fedmoe-admin", "--coordinator", self.address(), "--ca", self.pem / "ca.pem", *own, *command)

    def audit(self, *events):
        lines = [json.loads(line) for line in (self.folder / "run/audit.jsonl").read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["event"] in events]

    def test_a_run_with_certificates(self):
        coordinator = self.coordinator({"run": {"rounds": 2, "clients": {"min": 2}}, "server": self.tls_server()})
        clients = [self.client(f"node-{i}", self.address(), self.tls_client(f"node-{i}")) for i in range(2)]
        self.expect_exit(coordinator, 0)
        for client in clients:
            self.expect_exit(client, 0)
        self.assertEqual(read_summary(self.folder / "run")["rounds"], 2)
        admitted = self.audit("admitted")
        self.assertEqual(sorted((line["client"], line["certificate"]) for line in admitted),
                         [("node-0", "node-0"), ("node-1", "node-1")])
        for line in admitted:
            self.assertEqual(list(line), ["time", "event", "client", "certificate", "peer", "detail"])
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertRegex(line["peer"], r"^ipv4:127\.0\.0\.1:\d+$")

    def test_who_is_turned_away(self):
        coordinator = self.coordinator({"run": {"rounds": 1, "clients": {"min": 2}}, "server": self.tls_server()})
        # A certificate of the authority, but another's name.
        mallory = self.client("node-0", self.address(), self.tls_client("mallory"))
        self.expect_exit(mallory, 6)
        why = "the certificate is of 'mallory', the client calls itself 'node-0'; set its name to 'mallory'"
        self.assertIn(why, mallory.log())
        # No certificate, one of another authority, no TLS at all: no connection.
        self.expect_exit(self.client("bare", self.address(), self.tls_client("")), 5)
        make_certificates(self.folder / "other", "--client", "node-1")
        stranger = self.tls_client("")
        stranger["tls"].update(certificate=str(self.folder / "other/node-1.pem"), key=str(self.folder / "other/node-1.key"))
        self.expect_exit(self.client("stranger", self.address(), stranger), 5)
        self.expect_exit(self.client("plain", self.address(), {"retry": {"limit_s": 2}}), 5)
        # A client that expects another coordinator's name.
        expects = self.tls_client("node-1")
        expects["tls"]["server_name"] = "elsewhere.example"
        self.expect_exit(self.client("node-1", self.address(), expects), 5)

        code, text, error = self.admin("stop", certificate="node-0")
        self.assertEqual((code, text), (1, ""))
        self.assertIn("fedmoe-admin needs a certificate of 'admin' (server.tls.admin); this one is of 'node-0'", error)
        self.assertEqual(self.admin("status", certificate="")[0], 1)
        self.assertEqual(self.admin("stop")[0], 0)
        self.expect_exit(coordinator, 7)
        self.assertEqual(self.audit("admitted"), [])
        self.assertEqual([(line["client"], line["certificate"], line["detail"]) for line in self.audit("rejected")],
                         [("node-0", "mallory", why),
                          ("", "node-0", "stop: fedmoe-admin needs a certificate of 'admin' (server.tls.admin); this one is of "
                                         "'node-0'")])
        self.assertEqual([(line["certificate"], line["detail"]) for line in self.audit("commanded")], [("admin", "stop")])

    def test_a_client_is_revoked_while_it_takes_part(self):
        config = {"run": {"rounds": 100000, "clients": {"min": 1}}, "server": self.tls_server()}
        coordinator = self.coordinator(config)
        clients = [self.client(f"node-{i}", self.address(), self.tls_client(f"node-{i}")) for i in range(2)]
        self.wait_until("a round of both", lambda: any(len(outcomes(r)) == 2 for r in read_reports(self.folder / "run")),
                        coordinator)
        self.assertEqual(self.admin("revoke", "node-1"), (0, "", ""))
        self.expect_exit(clients[1], 6)
        self.assertIn("client 'node-1' has been revoked", clients[1].log())
        # The run goes on without it, and it does not come back, not even after a restart.
        done = len(read_reports(self.folder / "run"))
        self.wait_for_rounds(self.folder / "run", done + 2, coordinator)
        self.assertEqual(list(outcomes(read_reports(self.folder / "run")[-1])), ["node-0"])
        coordinator.kill()
        coordinator = self.coordinator(config, "--resume", port=int(self.address().rsplit(":", 1)[1]), label="again")
        self.expect_exit(self.client("node-1", self.address(), self.tls_client("node-1")), 6)
        self.assertEqual(self.admin("restore", "node-1"), (0, "", ""))
        again = self.client("node-1", self.address(), self.tls_client("node-1"))
        self.wait_for_log(again, "registered with")
        self.assertEqual(self.admin("stop")[0], 0)
        self.expect_exit(coordinator, 7)
        self.assertEqual([(line["event"], line["client"], line["certificate"]) for line in self.audit("revoked", "restored")],
                         [("revoked", "node-1", "admin"), ("restored", "node-1", "admin")])

    def test_a_round_that_waits_for_all_does_not_wait_for_the_revoked(self):
        coordinator = self.coordinator({"run": {"rounds": 2, "clients": {"min": 1}, "deterministic": True, "deadline_s": 0},
                                        "server": self.tls_server()})
        slow = self.client("node-1", self.address(), {**self.tls_client("node-1"), "data": {"domains": {"examples": 100000}}})
        self.wait_for_log(slow, "round 1: training")
        quick = self.client("node-0", self.address(), self.tls_client("node-0"))
        self.wait_for_log(quick, "registered with")
        self.assertEqual(self.admin("revoke", "node-1"), (0, "", ""))
        self.expect_exit(coordinator, 0)
        self.expect_exit(quick, 0)
        self.assertEqual(read_summary(self.folder / "run")["rounds"], 2)

    def test_encryption_without_clients_certificates(self):
        coordinator = self.coordinator({"run": {"rounds": 1, "clients": {"min": 1}}, "server": self.tls_server(mutual=False)})
        client = self.client("anyone", self.address(), self.tls_client(""))
        self.assertEqual(json.loads(self.admin("status", certificate="")[1])["run"], "e2e")
        self.expect_exit(coordinator, 0)
        self.expect_exit(client, 0)
        self.assertEqual([(line["client"], line["certificate"]) for line in self.audit("admitted")], [("anyone", "")])

    def test_files_that_do_not_fit(self):
        def refused(code, **tls):
            server = self.tls_server()
            server["tls"].update(tls)
            coordinator = self.coordinator({"server": server})
            self.expect_exit(coordinator, code)
            return coordinator.log()

        self.assertIn(f"server.tls.key: {self.pem}/node-0.key is not the key of {self.pem}/server.pem",
                      refused(2, key=str(self.pem / "node-0.key")))
        self.assertIn(f"server.tls.client_ca: {self.pem}/ca.key holds no PEM certificate",
                      refused(2, client_ca=str(self.pem / "ca.key")))
        self.assertIn("server.tls.certificate: ", refused(2, certificate=str(self.folder / "absent.pem")))

    def test_only_this_machine_without_tls(self):
        coordinator = self.coordinator({}, "--set", f"server.address=0.0.0.0:{free_port()}")
        self.expect_exit(coordinator, 2)
        self.assertIn("server.address must be of this machine alone without TLS", coordinator.log())


if __name__ == "__main__":
    assert BIN.is_dir(), f"{BIN} is not there; run scripts/build first"
    main()
