#!/usr/bin/python3
"""Plays JIRA: starts from a JIRA_HOME and serves what it finds, the way JIRA does.

It refuses a home that is locked, locks it, reads dbconfig.xml for the way to its database, the base URL from
propertystring, issues from jiraissue, and attachments from data/attachments/PROJECT/10000/ISSUE/ID.

    jira.py JIRA_HOME PORT
"""

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

home, port = Path(sys.argv[1]), int(sys.argv[2])
lock = home / ".jira-home.lock"


def datasource():
    """Where the database is, out of dbconfig.xml."""
    config = ElementTree.parse(home / "dbconfig.xml").getroot().find("jdbc-datasource")
    host, db_port, name = re.fullmatch(
        r"jdbc:postgresql://([^:/]+):(\d+)/([^?]+).*", config.findtext("url")
    ).groups()
    return {
        "PGHOST": host, "PGPORT": db_port, "PGDATABASE": name,
        "PGUSER": config.findtext("username"), "PGPASSWORD": config.findtext("password"),
    }


def query(sql):
    """Rows as lists of texts."""
    done = subprocess.run(
        ["psql", "--no-psqlrc", "-AtqF", "\x1f", "-v", "ON_ERROR_STOP=1", "-c", sql],
        env={"PATH": os.environ["PATH"], **datasource()}, capture_output=True, text=True, check=True,
    )
    return [line.split("\x1f") for line in done.stdout.splitlines()]


def attachment(key, number):
    return home / "data" / "attachments" / key.split("-")[0] / "10000" / key / number


def issues():
    rows = query(
        "SELECT p.pkey || '-' || i.issuenum, i.summary, a.id, a.filename, a.filesize FROM jiraissue i"
        " JOIN project p ON p.id = i.project LEFT JOIN fileattachment a ON a.issueid = i.id ORDER BY i.issuenum"
    )
    return [
        {"key": key, "summary": summary, "attachment": {
            "id": number, "name": name, "size": int(size),
            # A row whose file is missing is what a clone of two moments would show.
            "content": attachment(key, number).read_text() if attachment(key, number).exists() else None,
        }}
        for key, summary, number, name, size in rows
    ]


def server_info():
    base = query(
        "SELECT propertyvalue FROM propertystring JOIN propertyentry USING (id) WHERE property_key = 'jira.baseurl'"
    )
    mail = query("SELECT servername FROM mailserver")
    return {"baseUrl": base[0][0], "mail": mail[0][0], "database": datasource()["PGPORT"]}


class Jira(BaseHTTPRequestHandler):
    def do_GET(self):
        calls = {
            "/status": lambda: {"state": "RUNNING"},
            "/rest/api/2/serverInfo": server_info,
            "/rest/api/2/search": lambda: {"issues": issues()},
        }
        call = calls.get(self.path)
        body = json.dumps(call() if call else {"error": "there is no such page"}).encode()
        self.send_response(200 if call else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if lock.exists():
    sys.exit(f"JIRA is locked: {lock} is there. Another JIRA runs on this home, or it is a copy of one that did.")
lock.touch()
query("SELECT 1")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
try:
    ThreadingHTTPServer(("127.0.0.1", port), Jira).serve_forever()
finally:
    lock.unlink(missing_ok=True)
