#!/usr/bin/python3
"""Plays a Rails application: reads config/database.yml and .env of its root, and says what it finds there.

Posts are rows in PostgreSQL, each with an upload under storage/; for each a job waits in a Redis list, as Sidekiq
keeps them, and a counter says how many there were.

    rails.py ROOT        prints JSON
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import yaml

root = Path(sys.argv[1])
path = os.environ["PATH"]


def posts():
    config = yaml.safe_load((root / "config/database.yml").read_text())["production"]
    done = subprocess.run(
        ["psql", "--no-psqlrc", "-Atq", "-v", "ON_ERROR_STOP=1", "-c", "SELECT title FROM posts ORDER BY id"],
        env={"PATH": path, "PGHOST": config["host"], "PGPORT": str(config["port"]), "PGDATABASE": config["database"],
             "PGUSER": config["username"], "PGPASSWORD": config["password"]},
        capture_output=True, text=True, check=True,
    )
    return done.stdout.splitlines()


def redis(*words):
    lines = dict(line.split("=", 1) for line in (root / ".env").read_text().splitlines() if "=" in line)
    url = urlparse(lines["REDIS_URL"].strip('"'))
    user = ["--user", url.username] if url.username else []
    done = subprocess.run(
        ["redis-cli", "-h", url.hostname, "-p", str(url.port), "-n", url.path.strip("/") or "0", *user, *words],
        env={"PATH": path, "REDISCLI_AUTH": url.password}, capture_output=True, text=True, check=True,
    )
    return done.stdout.strip()


titles = posts()
uploads = {title: (root / "storage" / title) for title in titles}
print(json.dumps({
    "posts": titles,
    "uploads": {title: upload.read_text() if upload.exists() else None for title, upload in uploads.items()},
    "jobs": redis("LRANGE", "queue:default", "0", "-1").splitlines(),
    "counter": int(redis("GET", "posts:count") or 0),
}))
