"""What the previews' container may ask of the kernel: Docker's own profile, and what bubblewrap needs of root."""

import json
from typing import Any

from tests.support.server import ROOT

PROFILE: dict[str, Any] = json.loads((ROOT / "deploy/previews-seccomp.json").read_text())


def allowed(*capabilities: str) -> set[str]:
    """The system calls that are allowed whatever their arguments to a container with these capabilities."""
    rules = (rule for rule in PROFILE["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args"))
    return {
        name
        for rule in rules
        if set(rule.get("includes", {}).get("caps", ())) <= set(capabilities)
        and not set(rule.get("excludes", {}).get("caps", ())) & set(capabilities)
        for name in rule["names"]
    }


def test_what_no_rule_names_is_refused() -> None:
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"


def test_namespaces_and_mounts_need_the_capability() -> None:
    needed = {"mount", "umount2", "pivot_root", "unshare", "setns", "clone", "sethostname"}
    assert needed <= allowed("CAP_SYS_ADMIN")
    assert needed & allowed() == set()


def test_the_capability_allows_no_more_than_bubblewrap_needs() -> None:
    dangerous = {"bpf", "perf_event_open", "quotactl", "syslog", "fanotify_init", "keyctl", "init_module", "kexec_load"}
    assert dangerous & allowed("CAP_SYS_ADMIN") == set()
