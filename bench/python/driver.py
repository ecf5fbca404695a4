"""The driver of python-dynamodb-lock and of chainsaws. bench/driver/main.go documents the protocol."""

import datetime
import json
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

logging.disable(logging.CRITICAL)

REGION = "us-east-1"
settings = json.loads(os.environ["PEER"])
lease_s = settings["lease_ms"] / 1000
poll_s = settings["poll_ms"] / 1000
written = threading.Lock()


def write(entry):
    with written:
        sys.stdout.write(json.dumps(entry) + "\n")
        sys.stdout.flush()


class PythonDynamoDBLock:
    """python-dynamodb-lock. Heartbeats and safe period keep their ratio to the lease: 5 s and 20 s to 30 s."""

    def __init__(self):
        import boto3
        from python_dynamodb_lock.python_dynamodb_lock import DynamoDBLockClient

        self.type = DynamoDBLockClient
        self.db = boto3.client("dynamodb", region_name=REGION, endpoint_url=settings["endpoint"])
        options = {}
        if lease_s:
            options = {
                "lease_duration": datetime.timedelta(seconds=lease_s),
                "heartbeat_period": datetime.timedelta(seconds=lease_s / 6),
                "safe_period": datetime.timedelta(seconds=lease_s * 2 / 3),
            }
        resource = boto3.resource("dynamodb", region_name=REGION, endpoint_url=settings["endpoint"])
        self.client = DynamoDBLockClient(resource, table_name=settings["table"], **options)

    def setup(self):
        self.type.create_dynamodb_table(self.db, table_name=settings["table"])

    def acquire(self, name, wait_s, told):
        options = {"retry_timeout": datetime.timedelta(seconds=max(wait_s, 0.001))}
        if poll_s:
            options["retry_period"] = datetime.timedelta(seconds=poll_s)
        return self.client.acquire_lock(name, app_callback=lambda code, lock: told(), **options)

    def release(self, lock):
        lock.release(best_effort=False)

    def held(self, lock):
        return lock.status == lock.LOCKED

    watched = True


class Chainsaws:
    """chainsaws. It takes whole seconds, and waits as often as retry_times says, 3 times by default."""

    def __init__(self):
        from chainsaws.aws.distributed_lock import DistributedLockAPI, LockConfig

        options = {}
        if lease_s:
            options["ttl_seconds"] = int(lease_s)
        if poll_s:
            options["retry_delay"] = poll_s
        self.client = DistributedLockAPI(
            LockConfig(
                table_name=settings["table"],
                region=REGION,
                endpoint_url=settings["endpoint"],
                credentials={"aws_access_key_id": "test", "aws_secret_access_key": "test", "aws_region": REGION},
                **options,
            )
        )

    def setup(self):
        self.client.init_lock()

    def acquire(self, name, wait_s, told):
        self.client.retry_times = max(1, int(wait_s / self.client.retry_delay))
        self.client.acquire(name, timeout=max(wait_s, 0.001))
        return name

    def release(self, lock):
        self.client.release(lock)

    # The library has no local check: it asks the table.
    def held(self, lock):
        try:
            status = self.client.get_lock_status(lock)
        except Exception:
            return True  # it does not say that the lock is lost
        return bool(status.is_locked and status.owner_id == self.client.owner_id)

    watched = False


class Slot:
    """A client and the lock that it holds."""

    def __init__(self, number):
        self.number = number
        self.name = f"{settings['name']}/{number}"
        self.client = {"python-dynamodb-lock": PythonDynamoDBLock, "chainsaws": Chainsaws}[settings["kind"]]()
        self.mutex = threading.RLock()
        self.lock = self.belief = None
        self.sure = self.count = 0
        self.pool = ThreadPoolExecutor(max_workers=2)

    def command(self, ident, args):
        answer = {"id": ident, "ok": True, "began": time.monotonic_ns()}
        try:
            if args[0] == "setup":
                self.client.setup()
            elif args[0] == "acquire":
                self.acquire(args[1], int(args[2]) / 1000)
            elif args[0] == "release":
                self.release()
            elif args[0] == "held":
                answer["ok"] = self.lock is not None and self.ask(self.lock)
            else:
                raise ValueError(f"there is no command {args[0]}")
        except Exception as e:
            answer["ok"], answer["error"] = False, f"{type(e).__name__}: {e}"
        answer["ended"] = time.monotonic_ns()
        write(answer)

    def acquire(self, name, wait_s):
        box = []
        lock = self.client.acquire(name, wait_s, lambda: box and self.told(box[0]))
        box.append(lock)
        now = time.monotonic_ns()
        with self.mutex:
            self.count += 1
            self.lock, self.sure = lock, now
            self.belief = {"t": "belief", "client": self.name, "lock": name, "lease": f"{self.name}/{self.count}", "fence": 0, "from": now}
        if settings["watch"] and self.client.watched:
            threading.Thread(target=self.watch, args=(lock, self.count), daemon=True).start()

    def release(self):
        began = time.monotonic_ns()
        with self.mutex:
            lock, self.lock = self.lock, None
            self.end(began)
        self.client.release(lock)

    def ask(self, lock):
        held = self.client.held(lock)
        now = time.monotonic_ns()
        with self.mutex:
            if held and self.lock is lock:
                self.sure = now
        if not held:
            self.told(lock)
        return held

    def told(self, lock):
        with self.mutex:
            if self.lock is lock and self.belief:
                write({"t": "lost", "client": self.number, "at": time.monotonic_ns()})
                self.end(self.sure if self.client.watched and settings["watch"] else time.monotonic_ns())

    def end(self, at):
        if self.belief:
            self.belief["until"] = max(at, self.belief["from"] + 1)
            write(self.belief)
            self.belief = None

    def watch(self, lock, count):
        while self.lock is lock and self.count == count and self.ask(lock):
            time.sleep(0.01)


def main():
    slots = [Slot(n) for n in range(settings["clients"])]
    for line in sys.stdin:
        fields = line.split()
        if fields == ["exit"]:
            break
        slot = slots[int(fields[1])]
        slot.pool.submit(slot.command, fields[0], fields[2:])
    os._exit(0)


main()
