"""Which kills scripts/crash_matrix makes, run by run, and what came of them."""

import collections
import json
import shutil
import time

from crash_fleet import CLIENTS, PATIENCE_S, PHASES, Fleet, Lost, read_trace, site_of

WHOLE_ROUNDS = 3  # of the run whose operations are enumerated
CHAIN_ROUNDS = 10  # of a run that is killed many times in its beginning
BOTH_STRIDE = 8  # of the operations at which both die
STRIDE = 40  # operations between one such kill and the next
SUMMARY = "create summary.json.tmp"
SMALL_COMMIT = "sync checkpoints/N.segment"  # of a small version: its bytes are durable
LARGE_COMMIT = "rename checkpoints/N.json.tmp"
LISTENS = "create address.tmp"  # version 0 is there
FIRST_OF_ROUND = ("write spool/N.segment", "create spool/N.tmp", "overwrite spool/N.tmp")  # of small updates and of large ones
CLIENT_HEARS = "create over.tmp"  # of a client: the run is over
COMPLETED = 3  # exit code of a coordinator whose run is over, for its clients too
SEEK_TRIES = 8  # for a failpoint that no kill has hit
TRIES = 3  # for an operation that a run did not come to
LONGEST_WAIT_S = 1.2  # before a kill at a random instant


class Points:
    """The operations of runs without kills. A list a life: (index, site)."""

    def __init__(self, reference, whole, client, later, later_client):
        self.reference = reference  # model digests by round
        self.whole = whole  # of a coordinator, from an empty folder to the run's end
        self.later = later  # of one that goes on with a run, for a round and more
        self.client, self.later_client = client, later_client

    def sites(self):
        found = {"coordinator": collections.Counter(), "client": collections.Counter()}
        for who, lives in (("coordinator", (self.whole, self.later)), ("client", (self.client, self.later_client))):
            for life in lives:
                found[who].update(site for _, site in life)
        return found

    def describe(self):
        sites = self.sites()
        return (f"{len(self.whole)} operations of a coordinator from start to end, {len(self.client)} of a client, "
                f"{len(sites['coordinator'])} and {len(sites['client'])} kinds of operation and file")


def finish(fleet):
    if fleet.coordinator.process.wait(timeout=PATIENCE_S) != 0:
        raise SystemExit(f"crash_matrix: the run without kills failed:\n{fleet.coordinator.log()[-2000:]}")
    fleet.check_end()
    return [json.loads(line)["model_digest"] for line in fleet.lines]


def sites_of(life):
    return [(index, site_of(operation, path)) for index, operation, path in read_trace(life.trace)]


def commits(life):
    """Where the versions of its rounds are committed: positions."""
    sites = [site for _, site in life]
    if SMALL_COMMIT in sites:
        return [position for position, site in enumerate(sites) if site == SMALL_COMMIT]
    return [position for position, site in enumerate(sites) if site == LARGE_COMMIT and position > sites.index(LISTENS)]


def end_of_round(life, rounds):
    """How many operations there are until the round after so many begins."""
    committed = commits(life)[rounds - 1]
    return next((position for position, (_, site) in enumerate(life) if position > committed and site in FIRST_OF_ROUND),
                len(life))


def enumerate_points(work, programs, rounds):
    def run(name, count, reference, start):
        fleet = Fleet(work / name, programs, count, reference)
        try:
            start(fleet)
            return fleet, finish(fleet)
        finally:
            fleet.close()

    def undisturbed(traced):
        def start(fleet):
            fleet.start_coordinator(traced=traced)
            fleet.start_clients(traced=traced)
        return start

    _, reference = run("without-kills", rounds, None, undisturbed(False))
    fleet, _ = run("operations", WHOLE_ROUNDS, reference, undisturbed(True))
    whole, client = sites_of(fleet.coordinator), sites_of(fleet.clients[0])
    # And those of lives that go on: after a kill at the first round's commit, and in the middle of a client's work.
    commit = whole[commits(whole)[0]][0]

    def killed_once(fleet):
        fleet.start_coordinator(point=(commit, "before"))
        fleet.start_client(0, point=(len(client) // 2, "before"))
        fleet.start_clients(*range(1, CLIENTS))
        fleet.coordinator.process.wait(timeout=PATIENCE_S)
        fleet.start_coordinator(traced=True)
        fleet.clients[0].process.wait(timeout=PATIENCE_S)
        fleet.start_client(0, traced=True)

    fleet, _ = run("later-operations", WHOLE_ROUNDS + 2, reference, killed_once)
    later, later_client = sites_of(fleet.coordinator), sites_of(fleet.clients[0])
    return Points(reference, whole, client, later[:end_of_round(later, 2)], later_client)


def phases_of(site):
    return PHASES if site.startswith("write ") else ("before", "after")


def all_phases(life):
    return [(index, phase) for index, site in life for phase in phases_of(site)]


def covering(life, stride=1):
    """Operations, each in one phase, which take turns; and each kind of operation and file in every phase."""
    chosen, kinds = {}, set()
    for index, site in life[::stride]:
        phase = phases_of(site)[index // stride % len(phases_of(site))]
        chosen[index, phase] = None
        kinds.add((phase, site))
    for index, site in life:
        for phase in phases_of(site):
            if (phase, site) not in kinds:
                chosen[index, phase] = None
                kinds.add((phase, site))
    return sorted(chosen)


class Campaign:
    def __init__(self, work, programs, points, random, progress):
        self.work, self.programs, self.points, self.random, self.progress = work, programs, points, random, progress
        self.kills, self.lost, self.unreached = [], [], []
        self.hit = {"coordinator": collections.Counter(), "client": collections.Counter()}
        self.last_life = []  # operations of the life that was killed last
        self.runs = 0
        self.aborted = 0
        self.slowest_resume_s = 0.0

    # ---- Which kills.

    def beginning(self):
        """Of a coordinator that begins with an empty folder: until its second round."""
        return self.points.whole[:end_of_round(self.points.whole, 2)]

    def end(self):
        """What comes after the last round."""
        whole = self.points.whole
        return whole[next(position for position, (_, site) in enumerate(whole) if site == SUMMARY):]

    def client_work(self):
        """Of a client, before it hears that the run is over."""
        return self.points.client[:self.client_hears()]

    def client_end(self):
        return self.points.client[self.client_hears():]

    def client_hears(self):
        return next(position for position, (_, site) in enumerate(self.points.client) if site == CLIENT_HEARS)

    def steps(self, targets, limit, every_phase):
        """(how the points are used, who dies, points)."""
        points, steps = self.points, []
        of = all_phases if every_phase else covering
        if "coordinator" in targets:
            steps += [(self.chains, ("coordinator",), of(self.beginning())),
                      (self.singles, ("coordinator",), covering(self.end())),
                      (self.lives, ("coordinator",), of(points.later))]
        if "client" in targets:
            steps += [(self.chains, ("client",), all_phases(self.client_work())),
                      (self.singles, ("client",), all_phases(self.client_end())),
                      (self.lives, ("client",), all_phases(points.later_client))]
        if "both" in targets:
            steps += [(self.chains, ("coordinator", "client"), covering(self.beginning(), BOTH_STRIDE)),
                      (self.lives, ("coordinator", "client"), covering(points.later, BOTH_STRIDE)),
                      (self.chains, ("client", "coordinator"), covering(self.client_work())),
                      (self.singles, ("client", "coordinator"), covering(self.client_end())),
                      (self.lives, ("client", "coordinator"), covering(points.later_client))]
        total = sum(len(found) for _, _, found in steps)
        chosen = set(range(total))
        if limit is not None:
            chosen = set(self.random.sample(range(total), min(limit, total)))
        position, kept = 0, []
        for use, who, found in steps:
            kept.append((use, who, [point for at, point in enumerate(found, position) if at in chosen]))
            position += len(found)
        return kept

    # ---- Runs.

    def chains(self, who, points):
        """A run from an empty folder is killed at an operation, started again, killed some operations further on, and so on."""
        stride = STRIDE if who[0] == "coordinator" else STRIDE // 5
        if len(points) < stride:  # a few, in one run
            queue = collections.deque(sorted(points))
        else:
            queue = collections.deque(sorted(points, key=lambda point: (PHASES.index(point[1]), point[0] % stride, point[0])))
        while queue:
            chain = collections.deque([queue.popleft()])
            while queue and queue[0][0] > chain[-1][0]:
                chain.append(queue.popleft())
            self.until_done(who, chain, min(CHAIN_ROUNDS, len(self.points.reference)))

    def singles(self, who, points):
        """A run for each kill."""
        for point in points:
            self.until_done(who, collections.deque([point]), WHOLE_ROUNDS)

    def lives(self, who, points):
        """One life after another of a long run is killed, each an operation later than the last."""
        self.until_done(who, collections.deque(points), len(self.points.reference))

    def until_done(self, who, queue, rounds):
        tries = collections.Counter()
        while queue:
            self.one_run(rounds, lambda fleet: self.at_operations(fleet, who, queue, tries))

    def one_run(self, rounds, body):
        self.runs += 1
        fleet = Fleet(self.work / f"run-{self.runs}", self.programs, rounds, self.points.reference)
        kills = len(self.kills)
        try:
            body(fleet)
            self.aborted += fleet.check_acknowledged()
            digest = fleet.check_end()
            if digest != self.points.reference[rounds - 1]:
                raise Lost(f"the run ended in the model {digest}, without kills in {self.points.reference[rounds - 1]}")
        except Lost as loss:
            last = self.kills[-1] if len(self.kills) > kills else "no kill yet"
            self.lost.append(f"{loss} (run {self.runs} in {fleet.folder}; last kill: {last})")
        else:
            shutil.rmtree(fleet.folder)
        finally:
            self.slowest_resume_s = max(self.slowest_resume_s, fleet.slowest_resume_s)
            fleet.close()

    def at_operations(self, fleet, who, queue, tries):
        point, order = queue.popleft(), "first"
        fleet.start_coordinator(point if who[0] == "coordinator" else None)
        fleet.start_client(0, point if who[0] == "client" else None)
        fleet.start_clients(*range(1, CLIENTS))
        while True:
            life = fleet.coordinator if who[0] == "coordinator" else fleet.clients[0]
            if not self.wait_for_death(fleet, life):
                # The run was over before; the next one begins with this point.
                tries[point] += point is not None
                if point is not None and tries[point] < TRIES:
                    queue.appendleft(point)
                elif point is not None:
                    self.unreached.append(["+".join(who), *point])
                return
            self.note(fleet, who, life, order)
            point, order = queue.popleft() if queue else None, "later"
            self.restart(fleet, who, point)

    def wait_for_death(self, fleet, life):
        """True when `life` was killed; False when the run ended before."""
        end = time.monotonic() + PATIENCE_S
        while True:
            if life.died() and not life.told:
                return True
            code = fleet.coordinator.process.poll()
            if code == 0 or (code == COMPLETED and "is completed" in fleet.coordinator.log()):
                return False
            if code is not None and not (life is fleet.coordinator and life.died()):  # which it may have since
                raise Lost(f"the coordinator ended with exit code {code}: {fleet.coordinator.log()[-500:]}")
            for number, client in enumerate(fleet.clients):
                code = client.process.poll()
                if code not in (None, 0) and client is not life and not client.told:
                    raise Lost(f"node-{number} ended with exit code {code}: {client.log()[-500:]}")
            if time.monotonic() > end:
                raise Lost(f"the run made no progress within {PATIENCE_S:.0f} s")
            time.sleep(0.003)

    def note(self, fleet, who, life, order, **more):
        kill = {"kill": len(self.kills) + 1, "run": self.runs, "killed": list(who), "life": order, **more}
        if life.point is not None:
            self.last_life = sites_of(life)
            # Not the last: other threads may have begun with theirs before it was killed after its own.
            index, operation, path = next(entry for entry in read_trace(life.trace) if entry[0] == life.point[0])
            site = site_of(operation, path)
            kill.update(operation=index, phase=life.point[1], site=site)
            self.hit[who[0]][f"{life.point[1]} {site}"] += 1
        if "client" in who and who[0] != "client":
            fleet.clients[0].kill()
        if "coordinator" in who and who[0] != "coordinator":
            fleet.coordinator.kill()
        self.kills.append(kill)
        if "coordinator" in who:
            fleet.check_coordinator_life(fleet.coordinator)
        else:
            fleet.check_reports()
        fleet.check_acknowledged()
        kill["rounds"] = len(fleet.lines)
        self.progress.show(len(self.kills), len(self.lost))

    def restart(self, fleet, who, point=None):
        for name in who:
            mine = point if name == who[0] else None
            if name == "coordinator":
                fleet.start_coordinator(mine)
            else:
                fleet.start_client(0, mine)

    def not_hit(self):
        """The coordinator's failpoints that no kill has hit: threads take turns differently each time, and shift the numbers."""
        return [(phase, site) for site in self.points.sites()["coordinator"] for phase in phases_of(site)
                if not self.hit["coordinator"][f"{phase} {site}"]]

    def seek(self, missing):
        """Each of them in runs of its own, at the place where it was last seen, until it is hit."""
        commit = self.points.whole[commits(self.points.whole)[0]][0]
        for phase, site in missing:
            fresh = [index for index, found in self.points.whole if found == site]
            # What a beginning does not have is done by a life that finds what a crash left.
            before = None if fresh else (commit, "before")
            place = (fresh or [index for index, found in self.points.later if found == site])[0]
            for _ in range(SEEK_TRIES):
                if self.hit["coordinator"][f"{phase} {site}"]:
                    break
                self.one_run(WHOLE_ROUNDS, lambda fleet, at=place: self.at_operations(
                    fleet, ("coordinator",), collections.deque(filter(None, [before, (at, phase)])), collections.Counter()))
                seen = [index for index, found in self.last_life if found == site]
                place = seen[0] if seen else place + 1

    # ---- Random instants.

    def kill_at_random(self, count):
        end = len(self.kills) + count
        while len(self.kills) < end and len(self.lost) < count:
            self.one_run(len(self.points.reference), lambda fleet: self.at_random(fleet, end))

    def at_random(self, fleet, end):
        """Half of the kills come any time after the start, also before a client is back; half while rounds are made."""
        fleet.start_coordinator()
        fleet.start_clients()
        while True:
            who = self.random.choice([("coordinator",), ("coordinator",), ("client",), ("coordinator", "client")])
            delay_s = self.random.uniform(0.0, LONGEST_WAIT_S)
            if len(self.kills) >= end or not self.wait_before_kill(fleet, delay_s, self.random.random() < 0.5):
                self.wait_for_death(fleet, fleet.coordinator)  # the run's end, which must be in order
                return
            life = fleet.coordinator if who[0] == "coordinator" else fleet.clients[0]
            if life.told:
                continue
            life.kill()
            self.note(fleet, who, life, "random", delay_s=round(delay_s, 3))
            self.restart(fleet, who)

    def wait_before_kill(self, fleet, delay_s, for_clients):
        """False when the run was over before."""
        path = fleet.out / "rounds.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        limit = time.monotonic() + PATIENCE_S
        while for_clients and (not path.is_file() or path.stat().st_size == size):
            if fleet.coordinator.process.poll() is not None or time.monotonic() > limit:
                return False
            time.sleep(0.002)
        until = time.monotonic() + delay_s
        while time.monotonic() < until:
            if fleet.coordinator.process.poll() is not None:
                return False
            time.sleep(0.002)
        return True

    # ---- What came of it.

    def report(self):
        enumerated = {who: sorted({f"{phase} {site}" for site in sites for phase in phases_of(site)})
                      for who, sites in self.points.sites().items()}
        return {
            "kills": len(self.kills), "lost": self.lost, "runs": self.runs, "aborted_attempts": self.aborted,
            "slowest_resume_s": round(self.slowest_resume_s, 3),
            "killed": dict(collections.Counter("+".join(kill["killed"]) for kill in self.kills)),
            "at_operations": sum("site" in kill for kill in self.kills),
            "at_random": sum(kill["life"] == "random" for kill in self.kills),
            "operations": {"coordinator": len(self.points.whole), "client": len(self.points.client)},
            "sites": {who: {site: self.hit[who][site] for site in sites} for who, sites in enumerated.items()},
            "not_hit": {who: [site for site in sites if not self.hit[who][site]] for who, sites in enumerated.items()},
            "not_reached": self.unreached,
        }

    def describe(self):
        report = self.report()
        sites = {who: (len(of) - len(report["not_hit"][who]), len(of)) for who, of in report["sites"].items()}
        return (f"{report['runs']} runs; {report['at_operations']} kills at operations, {report['at_random']} at random "
                f"instants; {report['aborted_attempts']} attempts aborted; slowest resume {report['slowest_resume_s']:.2f} s\n"
                + "\n".join(f"{who}: {hit} of {of} failpoints (phase, operation, file) hit" for who, (hit, of) in sites.items()))
