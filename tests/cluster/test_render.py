"""Rendered files against the schemas of those who read them, and values that try to break out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from weakspot.cluster.fields import PLAIN, Field, parse_set
from weakspot.cluster.render import FOLDER, find, load, render, targets
from weakspot.errors import UserError

SCHEMA = json.loads((Path(__file__).parent / "schemas/kuberay.json").read_text())
IMAGE, STORED = "registry.example.org/weakspot:1", "s3://bucket/audits"
LEAST: dict[str, dict[str, str]] = {  # what must be given
    "dockerfile": {},
    "kuberay-cluster": {"image": IMAGE},
    "kuberay-job": {"image": IMAGE, "storage": STORED},
    "ray-aws": {"image": IMAGE},
    "ray-gcp": {"image": IMAGE, "project": "my-project-1"},
    "ray-onprem": {"head": "10.0.0.1", "workers": "10.0.0.2,node-3", "environment": "/opt/weakspot"},
    "slurm": {"storage": "/shared/audits"},
}
LAUNCHER = ("ray-aws", "ray-gcp", "ray-onprem")
HOSTILE = [
    "a\nb: c",
    "x' ; touch pwned ; '",
    '"}: [',
    "$(touch pwned)",
    "`touch pwned`",
    "a b",
    "a\u2028b",
    "{{ name }}",
    "!field name",
]


def rendered(target: str, **changes: str) -> str:
    return render(target, {**LEAST[target], **changes})


def objects(target: str, **changes: str) -> Any:
    return yaml.safe_load(rendered(target, **changes))


def test_every_target_is_rendered_here() -> None:
    assert sorted(LEAST) == targets()


@pytest.mark.parametrize("target", sorted(LEAST))
def test_what_must_be_given_is_asked_for_and_nothing_else(target: str) -> None:
    must = {name for name, field in find(target).fields.items() if field.default is None and not field.installed}
    assert must == set(LEAST[target])
    for name in must:
        with pytest.raises(UserError, match=rf"^{name} is missing \(.*: add --set {name}=."):
            render(target, {key: value for key, value in LEAST[target].items() if key != name})


# ------------------------------------------------------------------------------------------------------------- schemas


def check_launcher(config: dict[str, Any]) -> dict[str, Any]:
    """Ray's own check of a cluster file, after Ray has filled in its defaults, as `ray up` does."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("target", LAUNCHER)
def test_rays_launcher_accepts_its_files(target: str) -> None:
    prepared = check_launcher(objects(target))
    with pytest.raises(jsonschema.ValidationError):
        check_launcher({**objects(target), "wishes": 1})
    count = {"ray-onprem": 2}.get(target, 4)
    workers = [kind for name, kind in prepared["available_node_types"].items() if name != "head"]
    assert [(kind["min_workers"], kind["max_workers"]) for kind in workers] == [(count, count)]
    assert "--dashboard-host=127.0.0.1" in prepared["head_start_ray_commands"][-1], "the job server is nobody else's"


@pytest.mark.parametrize(("target", "market"), [("ray-aws", "InstanceMarketOptions"), ("ray-gcp", "scheduling")])
def test_workers_are_spot_instances_and_the_head_is_not(target: str, market: str) -> None:
    spot, own = (objects(target, spot=said)["available_node_types"] for said in ("yes", "no"))
    worker = json.dumps(spot["worker"]["node_config"][market])
    assert '"spot"' in worker or '"preemptible": true' in worker
    assert market not in spot["head"]["node_config"]
    assert spot["head"]["resources"] == {"CPU": 0, "GPU": 0}, "a trial on the head would share the driver's processors"
    assert "spot" not in json.dumps(own)
    assert "preemptible" not in json.dumps(own)


def check_kube(thing: dict[str, Any]) -> None:
    jsonschema.validate(thing, {**SCHEMA, "$ref": f"#/$defs/{thing['kind']}"})


KUBE = [
    ("kuberay-cluster", {}),
    ("kuberay-job", {}),
    (
        "kuberay-job",
        {"gpus": "8", "spot": "no", "secret": "keys", "volume": "nfs", "storage": "/storage/tar", "audit": "--trials 9"},
    ),
]


@pytest.mark.parametrize(("target", "changes"), KUBE)
def test_kuberay_objects_fit_their_schema(target: str, changes: dict[str, str]) -> None:
    thing = objects(target, **changes)
    check_kube(thing)
    for where in (thing["spec"], thing["metadata"]):
        where["wishes"] = 1
        with pytest.raises(jsonschema.ValidationError, match="wishes"):
            check_kube(thing)
        del where["wishes"]


def cluster_of(thing: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = thing["spec"].get("rayClusterSpec", thing["spec"])
    return spec["headGroupSpec"], spec["workerGroupSpecs"][0]


@pytest.mark.parametrize("target", ["kuberay-cluster", "kuberay-job"])
def test_pods_on_spot_nodes_are_workers(target: str) -> None:
    head, workers = cluster_of(objects(target, workers="7", gpus="2"))
    labels = [
        {
            e["key"]
            for e in head["template"]["spec"]["affinity"]["nodeAffinity"][kind]["nodeSelectorTerms"][0]["matchExpressions"]
        }
        for kind in ("requiredDuringSchedulingIgnoredDuringExecution",)
    ]
    liked = workers["template"]["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert labels == [{term["preference"]["matchExpressions"][0]["key"] for term in liked}], (
        "what the head avoids, workers like"
    )
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [7, 7, 7]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    _, own = cluster_of(objects(target, spot="no"))
    assert "affinity" not in own["template"]["spec"]
    assert own["template"]["spec"]["tolerations"] == []
    assert "nvidia.com/gpu" not in own["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_a_retried_job_goes_on_from_storage() -> None:
    spec = objects("kuberay-job", audit="--defense tar --trials 9", retries="5", hours="2")["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:2] == ["weakspot", "audit"]
    assert "--resume" in words
    assert words[words.index("--storage") + 1] == STORED
    assert words[words.index("--defense") + 1] == "tar"
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["shutdownAfterJobFinishes"]) == (5, 7200, True)


def test_no_pod_runs_as_root() -> None:
    for group in cluster_of(objects("kuberay-job")):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert all(c["securityContext"]["capabilities"]["drop"] == ["ALL"] for c in pod["containers"])


# --------------------------------------------------------------------------------------------------------------- Slurm


def directives(script: str) -> dict[str, str]:
    """The options that sbatch reads: of all lines before the first command."""
    head = script.split("\nset -euo")[0]
    assert all(line.startswith("#") for line in head.splitlines() if line)
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", head, re.MULTILINE))


def test_the_batch_script_asks_for_what_was_set(tmp_path: Path) -> None:
    script = rendered("slurm", nodes="16", gpus="4", time="1-00:00:00", partition="a100")
    found = directives(script)
    assert script.startswith("#!/bin/bash\n")
    assert {"requeue", "signal", "output"} <= set(found), "a job that was preempted comes back"
    wanted = {"nodes": "16", "gpus-per-node": "4", "time": "1-00:00:00", "partition": "a100", "ntasks-per-node": "1"}
    assert wanted.items() <= found.items()
    assert len(found) == script.count("#SBATCH")
    assert not {"gpus-per-node", "partition", "account"} & set(directives(rendered("slurm")))
    file = tmp_path / "job.sh"
    for text in (script, rendered("slurm", environment="/shared/venv", audit="--defense 'a b'")):
        file.write_text(text)
        subprocess.run(["bash", "-n", file], check=True)
        if shutil.which("shellcheck"):
            done = subprocess.run(["shellcheck", "--severity=style", file], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


@pytest.fixture
def slurm(tmp_path: Path) -> Any:
    """Runs a batch script where srun, scontrol and ray write down what they were called with, and srun ends with a code."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    log = tmp_path / "log"
    for name, does in {
        "srun": '[ -z "$WARN" ] || { kill -USR1 $PPID; sleep 1; }; exit "$CODE"',
        "scontrol": "printf 'n1\\nn2\\n'",
        "ray": "true",
    }.items():
        (bin_ / name).write_text(f"#!/bin/bash\nprintf '%s\\0' {name} \"$@\" END >> {shlex.quote(str(log))}\n{does}\n")
        (bin_ / name).chmod(0o755)

    def run(script: str, code: int = 0, restarts: str = "", warn: str = "") -> tuple[int, list[list[str]]]:
        log.unlink(missing_ok=True)
        (tmp_path / "job.sh").write_text(script)
        env = {
            "PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "41234",
            "CODE": str(code), "WARN": warn,
            "TMPDIR": str(tmp_path), **({"SLURM_RESTART_COUNT": restarts} if restarts else {}),
        }  # fmt: skip
        done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=env, timeout=60, capture_output=True, text=True)
        calls = log.read_text().split("END\0") if log.exists() else []
        return done.returncode, [call.strip("\0").split("\0") for call in calls if call]

    return run


def test_the_batch_script_runs_one_audit_over_all_nodes(slurm: Any, tmp_path: Path) -> None:
    odd = "a b$(touch pwned)'\"\\"
    code, calls = slurm(rendered("slurm", audit=f"--defense {shlex.quote(odd)} --gate"), code=3)
    assert code == 3, "the audit's exit code is the job's"
    (srun,) = [call for call in calls if call[0] == "srun"]
    inner = srun[srun.index("ray") :]
    assert inner[:6] == ["ray", "symmetric-run", "--address", "n1:21234", "--min-nodes", "2"]
    entry = inner[inner.index("--") + 1 :]
    assert entry[:4] == ["env", "RAY_ADDRESS=n1:21234", "weakspot", "audit"]
    assert entry[4:7] == ["--defense", odd, "--gate"]
    assert entry[-3:] == ["--storage", "/shared/audits", "--resume"]
    assert ["ray", "get-auth-token", "--generate"] in calls
    assert not list(tmp_path.rglob("pwned"))


def test_a_warned_batch_script_queues_itself_again(slurm: Any) -> None:
    again = ["scontrol", "requeue", "41234"]
    assert again in slurm(rendered("slurm"), warn="yes")[1]
    assert again not in slurm(rendered("slurm"))[1]


def test_a_batch_script_is_not_queued_for_ever(slurm: Any) -> None:
    script = rendered("slurm", restarts="2")
    outs = set()
    for count in ("", "1", "2"):
        code, calls = slurm(script, restarts=count)
        assert code == 0
        (srun,) = [call for call in calls if call[0] == "srun"]
        outs.add(srun[srun.index("--out") + 1])
    assert len(outs) == 3, "what an earlier run left on this node is older than storage"
    code, calls = slurm(script, restarts="3")
    assert (code, calls) == (1, [])


# ---------------------------------------------------------------------------------------------------------- Dockerfile


def instructions(text: str) -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip() and not line.startswith("#")]


def test_the_image_pins_what_it_installs_and_is_no_roots() -> None:
    found = instructions(rendered("dockerfile", accelerator="cu126", torch="2.13.0", ray="2.60.0", version="0.1.0"))
    names = [name for name, _ in found]
    known = {"FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "ENV", "CMD"}
    assert names[0] == "FROM"
    assert set(names) <= known
    assert {"TORCH=2.13.0", "ACCELERATOR=cu126", "RAY=2.60.0"} == {rest for name, rest in found if name == "ARG"}
    steps = [rest for name, rest in found if name == "RUN"]
    assert any('"torch==${TORCH}" --index-url "https://download.pytorch.org/whl/${ACCELERATOR}"' in step for step in steps)
    (last,) = [step for step in steps if ".whl" in step]
    assert "[cluster,wandb]" in last
    assert '"torch==${TORCH}"' in last, "else the wheel's own dependency may put another build in its place"
    assert '"ray[default,tune]==${RAY}"' in last
    user = names.index("USER")
    assert found[user][1].split(":")[0].isdigit(), "runAsNonRoot knows numbers only"
    assert int(found[user][1].split(":")[0]) > 0
    assert not {"RUN", "COPY", "FROM"} & set(names[user:]), "root's work comes first"
    assert all(field.pattern == PLAIN or field.pattern for field in find("dockerfile").fields.values())


def test_the_versions_are_those_that_are_installed() -> None:
    import ray

    assert f"ARG RAY={ray.__version__}\n" in rendered("dockerfile")
    assert objects("kuberay-cluster")["spec"]["rayVersion"] == ray.__version__


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("slrm", {}, "unknown target 'slrm': did you mean slurm? known are dockerfile, "),
        ("slurm", {"nods": "3"}, "slurm has no field 'nods': did you mean nodes? known are name, nodes, "),
        ("slurm", {"nodes": "many"}, "nodes=many is not a whole number from 1"),
        ("slurm", {"nodes": "0"}, "nodes=0 is not a whole number from 1"),
        ("slurm", {"nodes": "1.5"}, "nodes=1.5 is not a whole number"),
        ("slurm", {"time": "tomorrow"}, "time=tomorrow is not text such as 1-12:00:00"),
        ("slurm", {"storage": "audits"}, "--storage audits is a relative path"),
        ("slurm", {"audit": "--defense 'a\nb'"}, "audit has a line break or another control character"),
        ("slurm", {"audit": "--defense 'tar"}, "is no command line (No closing quotation)"),
        ("ray-aws", {"spot": "perhaps"}, "spot=perhaps is not yes or no"),
        ("ray-aws", {"name": "My Cluster"}, "name=My Cluster is not text such as weakspot"),
        ("ray-onprem", {"workers": "a,,b"}, "workers=a,,b is not a list with commas such as 10.0.0.2,10.0.0.3"),
        ("kuberay-job", {"memory": "lots"}, "memory=lots is not text such as 32Gi"),
        ("kuberay-job", {"storage": "/tmp/a"}, "storage=/tmp/a is lost with the pod: give /storage/FOLDER"),
        ("kuberay-job", {"storage": "/storage/a"}, "storage=/storage/a is lost with the pod: add --set volume=NAME"),
        ("kuberay-job", {"audit": "--defense 'a b'"}, "audit has 'a b', which several shells would read"),
    ],
)
def test_a_mistake_is_one_line(target: str, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        render(target, {**LEAST.get(target, {}), **changes})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pair", ["nodes", "=3", "a b=3"])
def test_a_pair_is_a_name_and_a_value(pair: str) -> None:
    with pytest.raises(UserError, match="give NAME=VALUE"):
        parse_set([pair])
    assert parse_set(["audit=--set a=b", "nodes=1", "nodes=2"]) == {"audit": "--set a=b", "nodes": "2"}


EVERY = [(target, field) for target in sorted(LEAST) for field in find(target).fields.values()]


@pytest.mark.parametrize(("target", "field"), EVERY, ids=[f"{target}.{field.name}" for target, field in EVERY])
def test_no_value_breaks_out(target: str, field: Field) -> None:
    """Whatever is given is refused, or stands in the file as a value of its own, and no shell would read it otherwise."""
    for text in HOSTILE:
        with contextlib.suppress(UserError):
            file = rendered(target, **{field.name: text})
            assert field.type == "audit", f"{target} takes {text!r} for {field.name}"
            words = shlex.split(text)
            assert shlex.join(words) in file
            assert not field.plain or shlex.join(words) == " ".join(words), f"{target} takes {text!r}"


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_what_a_plain_field_takes_no_shell_changes(text: str) -> None:
    for field in (find("kuberay-job").fields["image"], find("slurm").fields["partition"], find("kuberay-job").fields["audit"]):
        try:
            value = field.parse(text)
        except UserError:
            continue
        for word in value if isinstance(value, list) else [value]:
            assert shlex.quote(word) == word


def test_the_defaults_are_values_themselves() -> None:
    for target, field in EVERY:
        default = field.standard() if field.default is not None or field.installed else field.example
        given_as = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
        if given_as not in ("", []):
            assert field.parse(str(given_as)) == default or field.type == "list", f"{target}.{field.name}"


# ------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + "A" * 16,
        "hf_" + "a" * 30,
        "0123456789" * 4,
        "ghp_" + "b" * 36,
        "s3://me:word@bucket/a",
    ],
)
def test_a_key_is_refused_and_not_repeated(secret: str) -> None:
    for target, name in (("slurm", "audit"), ("slurm", "partition"), ("kuberay-job", "image"), ("slurm", "storage")):
        with pytest.raises(UserError, match="looks like a key or token") as caught:
            rendered(target, **{name: secret})
        assert secret not in str(caught.value)


def test_templates_hold_no_secret_of_their_own() -> None:
    words = re.compile(r"(?i)(password|secret_?key|api_?key|access_?key)\s*[:=]\s*\S")
    for path in FOLDER.iterdir():
        assert not words.search(path.read_text()), path.name
    assert load("_kuberay").fields["secret"].default == ""
