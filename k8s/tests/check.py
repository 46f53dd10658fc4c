#!/usr/bin/env python3
"""Checks what no schema can say of the manifests, and does what they say on this machine.

    check.py COLOPHON [--not-yet WORD,...]

Builds every overlay and asserts its rules: which exit status is retried, what a container may do, that GPUs are
requested as they are limited, that the program knows every command, flag and variable. It follows README.md's commands on
what stands for a cluster: nothing is refused, and nothing waits for what is not there. Then it runs the Jobs, as far as
that goes without a cluster: the containers' arguments and variables as they are, with a folder for the volume. Each rule
is also shown a manifest that breaks it, and has to see it.

--not-yet names commands and variables that this build of the program does not have; what it has is checked all the same.
"""

import argparse
import copy
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml
from prometheus_client.parser import text_string_to_metric_families

K8S = pathlib.Path(__file__).resolve().parent.parent
KUBERNETES = "1.37"
OVERLAYS = ("demo", "cpu", "gpu", "plan", "indexed", "shell", "upload-s3", "upload-hub", "inspect")
COMPONENTS = ("kueue", "metrics")
NAMESPACE, CLAIM, USER = "nemo-curator-workshop", "nemo-curator-data", 65532
GPU = "nvidia.com/gpu"
# Variables that are others' to name: Kubernetes', the AWS SDK's, the Hub client's, and the manifests' own.
OTHERS = {
    "AWS_REGION", "AWS_SHARED_CREDENTIALS_FILE", "HF_HOME", "HF_HUB_DISABLE_TELEMETRY", "HF_TOKEN_PATH", "HOME",
    "S3_BUCKET",
}  # fmt: skip
UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def build(folder):
    """The documents of an overlay."""
    built = subprocess.run([K8S / "tests" / "kustomize", folder], capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(f"{folder} cannot be built:\n{built.stderr}")
    return [document for document in yaml.safe_load_all(built.stdout) if document]


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def quantity(text):
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()
    return float(number) * UNITS[unit]


def value_of(container, name):
    return next((entry.get("value") for entry in container.get("env", []) if entry["name"] == name), None)


class Program:
    """The program, and what it knows."""

    def __init__(self, path, not_yet):
        self.path, self.not_yet = str(pathlib.Path(path).resolve()), set(not_yet)
        self.helps = {}

    def run(self, args, env=None, cwd=None):
        # Nothing of whoever runs this: above all no key for an upload.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("COLOPHON_", "AWS_", "HF_"))}
        command = [self.path, *args]
        return subprocess.run(command, env=clean | (env or {}), cwd=cwd, capture_output=True, text=True)

    def help(self, command):
        """The help of a command; None if there is no such command."""
        if command not in self.helps:
            run = self.run([command, "--help"])
            self.helps[command] = run.stdout if run.returncode == 0 else None
        return self.helps[command]

    def lacks(self, command):
        """Whether a command is one that this build is known not to have."""
        return command in self.not_yet and self.help(command) is None

    def unknown_variables(self, names):
        """Those of these variables that the program does not know, as it says itself."""
        with tempfile.TemporaryDirectory() as folder:
            run = self.run(["summary", folder], {name: "" for name in names})
        return set(re.findall(r"variable (COLOPHON_\w+) is not one", run.stderr)) - self.not_yet

    def problems_of_args(self, args):
        command, *rest = args
        text = self.help(command)
        if text is None:
            return [] if self.lacks(command) else [f"colophon has no command '{command}'"]
        flags = [arg.split("=")[0] for arg in rest if arg.startswith("-")]
        has = lambda flag: re.search(rf"(^|\s|,){re.escape(flag)}(?![\w-])", text) is not None
        return [f"colophon {command} has no flag {f}" for f in flags if not has(f) and f.strip("-") not in self.not_yet]


# What is wrong with a container, in words. Each rule is a function that yields problems.


def confined(container, _):
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "it may escalate its privileges"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "its root file system can be written"
    if context.get("runAsNonRoot") is not True:
        yield "it may run as root"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "it has capabilities"


def bounded(container, _):
    requests, limits = (container.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
    for name in ("cpu", "memory", "ephemeral-storage"):
        if name not in requests or name not in limits:
            yield f"no request or no limit for {name}"
        elif quantity(requests[name]) > quantity(limits[name]):
            yield f"it requests more {name} than its limit"
    if requests.get(GPU) != limits.get(GPU):
        yield "it does not request the GPUs of its limit"


def known(container, program):
    yield from program.problems_of_args(container["args"])
    names = {entry["name"] for entry in container.get("env", [])}
    ours = {name for name in names if name.startswith("COLOPHON_")}
    yield from (f"colophon does not know {name}" for name in program.unknown_variables(ours))
    yield from (f"nobody knows {name}" for name in names - ours - OTHERS)


def discreet(container, _):
    for entry in container.get("env", []):
        if "secretKeyRef" in entry.get("valueFrom", {}):
            yield f"{entry['name']} is a secret in a variable"
        if re.search(r"TOKEN$|SECRET|PASSWORD|ACCESS_KEY", entry["name"]):
            yield f"{entry['name']} looks like a secret in a variable"
    if container.get("envFrom"):
        yield "variables of a whole ConfigMap or Secret"


CONTAINER_RULES = (confined, bounded, known, discreet)


def decision(job, status, disrupted=False):
    """What Kubernetes does about a failed pod: the first rule that matches; else it counts."""
    for rule in job["spec"].get("podFailurePolicy", {}).get("rules", []):
        codes = rule.get("onExitCodes")
        if codes and (status in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
        for condition in rule.get("onPodConditions", []):
            if disrupted and condition["type"] == "DisruptionTarget" and condition.get("status", "True") == "True":
                return rule["action"]
    return "Count"


def exit_statuses(job, _):
    fail_data = "FailIndex" if "backoffLimitPerIndex" in job["spec"] else "FailJob"
    expected = {1: fail_data, 2: "FailJob", 3: "Count", 137: "Count", 143: "Count"}
    for status, action in expected.items():
        if decision(job, status) != action:
            yield f"status {status}: {decision(job, status)}, where {action} is right"
    for status in (3, 137, 143):
        if decision(job, status, disrupted=True) != "Ignore":
            yield f"status {status} of a pod that had to go: {decision(job, status, True)}, where Ignore is right"
    containers = {container["name"] for container in job["spec"]["template"]["spec"]["containers"]}
    for rule in job["spec"].get("podFailurePolicy", {}).get("rules", []):
        name = rule.get("onExitCodes", {}).get("containerName")
        if name is not None and name not in containers:
            yield f"a rule is about the container {name}, which is not there"


def retries(job, _):
    spec = job["spec"]
    if spec["template"]["spec"].get("restartPolicy") != "Never":
        yield "restartPolicy is not Never, so the pod failure policy would not be asked"
    if spec.get("podReplacementPolicy") != "Failed":
        yield "a pod is replaced before it is gone"
    if not spec.get("activeDeadlineSeconds") or not spec.get("ttlSecondsAfterFinished"):
        yield "no deadline, or no end of its life"
    if spec.get("completionMode") == "Indexed":
        if not spec.get("backoffLimitPerIndex") or spec.get("maxFailedIndexes", spec["completions"]) >= spec["completions"]:
            yield "no limit for failures"
    elif not spec.get("backoffLimit"):
        yield "no retries"


def pod_confined(job, _):
    pod = job["spec"]["template"]["spec"]
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or (context.get("runAsUser"), context.get("fsGroup")) != (USER, USER):
        yield "not the image's user"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False or pod.get("serviceAccountName") != "nemo-curator-export":
        yield "a token of Kubernetes, or another account"
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "it is in a namespace of its node"
    for container in pod["containers"]:
        if container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            yield "`kubectl describe` would not say why it failed"


def volumes(job, _):
    pod = job["spec"]["template"]["spec"]
    there = {volume["name"]: volume for volume in pod.get("volumes", [])}
    if [v["persistentVolumeClaim"]["claimName"] for v in there.values() if "persistentVolumeClaim" in v] != [CLAIM]:
        yield "not the workshop's volume"
    if any("hostPath" in volume for volume in there.values()):
        yield "a folder of its node"
    for volume in there.values():
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"{volume['name']} has no limit"
    for mount in (mount for container in pod["containers"] for mount in container.get("volumeMounts", [])):
        volume = there.get(mount["name"])
        if volume is None:
            yield f"{mount['name']} is mounted, but not there"
        elif ("secret" in volume or "configMap" in volume) and not mount.get("readOnly"):
            yield f"{mount['name']} can be written"


def labelled(job, _):
    for labels in (job["metadata"].get("labels", {}), job["spec"]["template"]["metadata"].get("labels", {})):
        if labels.get("app") != "nemo-curator" or not labels.get("stage"):
            yield "not the workshop's labels"
    if job["metadata"].get("namespace") != NAMESPACE:
        yield "not the workshop's namespace"


def of_containers(job, program):
    for container in job["spec"]["template"]["spec"]["containers"]:
        for rule in CONTAINER_RULES:
            yield from (f"container {container['name']}: {problem}" for problem in rule(container, program))


JOB_RULES = (exit_statuses, retries, pod_confined, volumes, labelled, of_containers)


def problems_of(documents, program):
    """Everything that is wrong with an overlay."""
    found = []
    for document in documents:
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except Exception as error:  # the package's own kinds of error have no common base
            found.append(f"{document['kind']}: {error}")
    for job in of_kind(documents, "Job"):
        found += [f"{job['metadata']['name']}: {problem}" for rule in JOB_RULES for problem in rule(job, program)]
    return found


def container_of(documents, name):
    job = next(job for job in of_kind(documents, "Job") if job["metadata"]["name"] == name)
    return job, job["spec"]["template"]["spec"]["containers"][0]


def problems_between(overlays):
    """What has to hold of certain overlays."""
    for name, documents in overlays.items():
        gpus = any(GPU in container_of(documents, job["metadata"]["name"])[1]["resources"]["limits"] for job in of_kind(documents, "Job"))
        if gpus != (name in ("gpu", "indexed")):
            yield f"{name}: GPUs, or none"
    for name in ("cpu", "gpu"):
        job, exporter = container_of(overlays[name], "nemo-curator-export")
        requests, limits = exporter["resources"]["requests"], exporter["resources"]["limits"]
        if (requests["cpu"], requests["memory"], limits["cpu"], limits["memory"]) != ("2", "8Gi", "4", "16Gi"):
            yield f"{name}: not the workshop's resources"
        if exporter["name"] != "exporter" or job["spec"]["backoffLimit"] != 2:
            yield f"{name}: not the workshop's container or backoffLimit"
    claims = {name: claim_of(documents)["spec"] for name, documents in overlays.items()}
    yield from (f"{name}: another claim than overlays/cpu has" for name, spec in claims.items() if spec != claims["cpu"])
    for overlay, workers, last, command, more in AFTER_WORKERS:
        yield from (f"{overlay}: {problem}" for problem in problems_of_workers(overlays[overlay], workers, last, command, more))


# Who waits for whose parts, in which overlay, with which command and which arguments of its own.
AFTER_WORKERS = (
    ("indexed", "nemo-curator-export", "nemo-curator-merge", "merge", []),
    ("plan", "nemo-curator-plan-workers", "nemo-curator-plan", "plan", ["--from-parts", "--save", "/data/export.plan"]),
)


def problems_of_workers(documents, workers, last, command, more):
    workers, worker = container_of(documents, workers)
    last, waiting = container_of(documents, last)
    number = workers["spec"]["completions"]
    if workers["spec"]["completionMode"] != "Indexed":
        yield "not an Indexed Job"
    if workers["spec"]["parallelism"] != number or value_of(worker, "COLOPHON_WORKERS") != str(number):
        yield "completions, parallelism and COLOPHON_WORKERS are not one number"
    if last["spec"]["activeDeadlineSeconds"] <= workers["spec"]["activeDeadlineSeconds"]:
        yield f"the {command} gives up before the workers do"
    # Tries come after 10 s, 20 s and so on, and from the sixth on every 6 minutes at the most often.
    if last["spec"]["backoffLimit"] * 360 < last["spec"]["activeDeadlineSeconds"]:
        yield f"the {command}'s tries are used up before its time"
    if waiting["args"] != [command, *worker["args"][1:], *more]:
        yield f"the workers and the {command} have different job files"


def yaml_of(documents, kind, name):
    return next(document for document in of_kind(documents, kind) if document["metadata"]["name"] == name)


def claim_of(documents):
    return yaml_of(documents, "PersistentVolumeClaim", CLAIM)


def breakages():
    """Manifests with one thing wrong each: a name and a change to the Job of overlays/cpu."""
    spec = lambda job: job["spec"]
    pod = lambda job: job["spec"]["template"]["spec"]
    container = lambda job: pod(job)["containers"][0]
    rules = lambda job: spec(job)["podFailurePolicy"]["rules"]
    yield "a misspelt field", lambda job: spec(job).update(backofLimit=1)
    yield "a retry of status 2", lambda job: rules(job)[0]["onExitCodes"].update(values=[1])
    yield "no retry of status 3", lambda job: rules(job)[0]["onExitCodes"]["values"].append(3)
    yield "disruptions that count", lambda job: rules(job).pop()
    yield "rules for another container", lambda job: rules(job)[0]["onExitCodes"].update(containerName="x")
    yield "restarts in place", lambda job: pod(job).update(restartPolicy="OnFailure")
    yield "no deadline", lambda job: spec(job).pop("activeDeadlineSeconds")
    yield "early replacement", lambda job: spec(job).pop("podReplacementPolicy")
    yield "no retries", lambda job: spec(job).update(backoffLimit=0)
    yield "root", lambda job: pod(job)["securityContext"].update(runAsUser=0)
    yield "no seccomp", lambda job: pod(job)["securityContext"].pop("seccompProfile")
    yield "a token", lambda job: pod(job).pop("automountServiceAccountToken")
    yield "a writable root", lambda job: container(job)["securityContext"].update(readOnlyRootFilesystem=False)
    yield "a capability", lambda job: container(job)["securityContext"]["capabilities"].update(add=["NET_RAW"])
    yield "no limit of storage", lambda job: container(job)["resources"]["limits"].pop("ephemeral-storage")
    yield "more than the limit", lambda job: container(job)["resources"]["requests"].update(memory="32Gi")
    yield "a GPU without a request", lambda job: container(job)["resources"]["limits"].update({GPU: "1"})
    yield "an unknown flag", lambda job: container(job)["args"].append("--sede=1")
    yield "a flag of another command", lambda job: container(job)["args"].append("--part-size")
    yield "an unknown command", lambda job: container(job)["args"].__setitem__(0, "exprot")
    yield "a misspelt variable", lambda job: container(job)["env"].append({"name": "COLOPHON_DEVISE", "value": "cpu"})
    yield "a variable of nobody", lambda job: container(job)["env"].append({"name": "DEVICE", "value": "cpu"})
    yield "a secret in a variable", lambda job: container(job)["env"].append({"name": "HF_TOKEN", "value": "x"})
    yield "a writable job file", lambda job: container(job)["volumeMounts"][1].pop("readOnly")
    yield "a folder of the node", lambda job: pod(job)["volumes"].append({"name": "h", "hostPath": {"path": "/"}})
    yield "another volume", lambda job: pod(job)["volumes"][0]["persistentVolumeClaim"].update(claimName="x")
    yield "no label", lambda job: spec(job)["template"]["metadata"]["labels"].pop("stage")


def breakages_between():
    indexed = lambda overlays, name: container_of(overlays["indexed"], name)
    number = lambda o: indexed(o, "nemo-curator-export")[0]["spec"].update(parallelism=7)
    yield "another number of workers", number
    yield "an impatient merge", lambda o: indexed(o, "nemo-curator-merge")[0]["spec"].update(activeDeadlineSeconds=60)
    yield "a merge with few tries", lambda o: indexed(o, "nemo-curator-merge")[0]["spec"].update(backoffLimit=6)
    planned = lambda overlays, name: container_of(overlays["plan"], name)
    yield "a plan with few tries", lambda o: planned(o, "nemo-curator-plan")[0]["spec"].update(backoffLimit=6)
    yield "a plan elsewhere", lambda o: planned(o, "nemo-curator-plan")[1]["args"].__setitem__(-1, "/tmp/x")
    yield "another number of planners", lambda o: planned(o, "nemo-curator-plan-workers")[0]["spec"].update(completions=9)
    yield "a merge elsewhere", lambda o: indexed(o, "nemo-curator-merge")[1]["args"].__setitem__(2, "/data/other")
    yield "a claim of its own", lambda o: claim_of(o["indexed"])["spec"].update(accessModes=["ReadWriteMany"])
    yield "a GPU in cpu", lambda o: container_of(o["cpu"], "nemo-curator-export")[1]["resources"]["limits"].update({GPU: "1"})


def check_the_rules(overlays, program):
    for name, breaking in breakages():
        documents = copy.deepcopy(overlays["cpu"])
        breaking(of_kind(documents, "Job")[0])
        if not problems_of(documents, program):
            sys.exit(f"no rule sees {name}")
    for name, breaking in breakages_between():
        broken = copy.deepcopy(overlays)
        breaking(broken)
        if not list(problems_between(broken)):
            sys.exit(f"no rule sees {name}")
    for name, old, new in breakages_of_guide():
        guide = (K8S / "README.md").read_text()
        if not list(problems_of_guide(guide.replace(old, new))):
            sys.exit(f"no rule sees {name}")


def check_argo(program):
    """The workflow is of a kind that no schema here knows: its containers follow the Jobs' rules all the same."""
    workflow = yaml.safe_load((K8S / "argo" / "export.yaml").read_text())
    spec, found = workflow["spec"], []
    for template in spec["templates"]:
        if "container" not in template:
            continue
        container, name = template["container"], template["name"]
        found += [f"{name}: {problem}" for rule in CONTAINER_RULES for problem in rule(container, program)]
        if container["command"] != ["/usr/local/bin/colophon"]:
            found.append(f"{name}: another program")
        retry = template["retryStrategy"]
        if "not (asInt(lastRetry.exitCode) in [1, 2])" not in retry["expression"] or retry["retryPolicy"] != "Always":
            found.append(f"{name}: statuses 1 and 2 are tried again, or others are not")
    if workflow["metadata"]["namespace"] != NAMESPACE or spec["securityContext"]["runAsUser"] != USER:
        found.append("another namespace or user")
    tasks = {task["name"]: task.get("depends") for task in spec["templates"][0]["dag"]["tasks"]}
    if tasks != {"workers": None, "merge": "workers.Succeeded", "verify": "merge.Succeeded"}:
        found.append(f"another order: {tasks}")
    return found


def check_argo_account(documents):
    """The workflow's account is there, and may do what Argo's executor has to do, and no more."""
    name = yaml.safe_load((K8S / "argo" / "export.yaml").read_text())["spec"]["serviceAccountName"]
    if name not in [account["metadata"]["name"] for account in of_kind(documents, "ServiceAccount")]:
        return [f"the account {name} is not there"]
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    roles = [binding["roleRef"]["name"] for binding in of_kind(documents, "RoleBinding") if subject in binding["subjects"]]
    rules = [rule for role in of_kind(documents, "Role") if role["metadata"]["name"] in roles for rule in role["rules"]]
    needed = [{"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}]
    return [] if rules == needed else [f"the account {name} may do {rules}"]


def check_shell(documents, program):
    """The pod for people: no Job, but with no more rights than one."""
    pod = yaml_of(documents, "Pod", "data-inspector")
    as_job = {"metadata": pod["metadata"], "spec": {"template": {"metadata": pod["metadata"], "spec": pod["spec"]}}}
    found = [problem for rule in (pod_confined, volumes, labelled) for problem in rule(as_job, program)]
    return found + [problem for rule in (confined, bounded, discreet) for problem in rule(pod["spec"]["containers"][0], program)]


def blocks_of(guide, language):
    return re.findall(rf"^```{language}\n(.*?)^```", guide, re.M | re.S)


def commands_of(guide):
    """The commands for the user's own machine, a list of words each."""
    for line in "".join(blocks_of(guide, "bash")).replace("\\\n", " ").splitlines():
        if line.startswith(("kubectl ", "docker ", "sed ", "argo ")):
            yield shlex.split(line.split(" | ")[0], comments=True)


def problems_of_guide(guide):
    """README.md: its commands can be read by a shell, and do what they should on a cluster, one after the other."""
    for block in blocks_of(guide, "bash"):
        if subprocess.run(["bash", "-n"], input=block, text=True, stderr=subprocess.DEVNULL).returncode != 0:
            yield f"no shell reads this: {block}"
    for path in re.findall(r"\]\(([^)#:]+)", guide):
        if not (K8S / path).exists():
            yield f"{path} is not there"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(K8S, f"{folder}/k8s", ignore=shutil.ignore_patterns("*.bak"))
        yield from Cluster(pathlib.Path(folder)).follow(commands_of(guide))


class Cluster:
    """As much of a cluster as README.md can go wrong with: what is there, and what of it cannot be changed."""

    def __init__(self, root):
        self.root, self.there, self.applied = root, {}, set()
        self.image, self.built = None, {}

    def follow(self, commands):
        for words in commands:
            names = self.names(words[2:])
            if words[:2] == ["docker", "push"]:
                self.image = words[2]
            elif words[0] == "sed":
                before = {path: path.read_text() for path in self.root.rglob("*.yaml")}
                subprocess.run(words, cwd=self.root, check=True)
                if all(path.read_text() == text for path, text in before.items()):
                    yield f"{shlex.join(words)} changes nothing"
            elif words[:2] == ["kubectl", "apply"]:
                yield from self.apply(words[words.index("-k") + 1])
            elif words[:2] == ["kubectl", "delete"]:
                self.delete(words, names)
            elif words[:2] == ["kubectl", "wait"] and not any(word.startswith("--timeout=") for word in words):
                yield f"{shlex.join(words)} gives up after 30 s"
            elif words[0] == "argo" and not ((self.root / words[4]).exists() and f"image={self.image}" in words):
                yield "the workflow or its image is not there"
            if words[:2] in (["kubectl", "wait"], ["kubectl", "logs"], ["kubectl", "exec"]):
                names = names or [("Pod", word) for word in words if word == "data-inspector"]
                yield from (f"{shlex.join(words)}: it is not there" for name in names or [None] if name not in self.there)
        if missing := set(OVERLAYS) - self.applied:
            yield f"it does not name {missing}"

    @staticmethod
    def names(words):
        """Objects as in job/NAME."""
        return [(kind.capitalize(), name) for kind, _, name in (word.partition("/") for word in words) if kind in ("job", "pod") and name]

    def apply(self, path):
        self.applied.add(pathlib.Path(path).name)
        if not (self.root / path / "kustomization.yaml").exists():
            yield f"{path} is not there"
            return
        if path not in self.built:
            self.built[path] = build(self.root / path)
        for document in self.built[path]:
            kind, name = key = document["kind"], document["metadata"]["name"]
            if kind in ("Job", "Pod") and key in self.there:
                yield f"{path}: {kind} {name} is there already"
            if kind == "Job" and ("Pod", "data-inspector") in self.there:
                yield f"{path}: {name} may wait for the node of the shell"
            if kind == "PersistentVolumeClaim" and self.there.get(key, document)["spec"] != document["spec"]:
                yield f"{path}: the claim is there already, and another"
            if kind == "PersistentVolumeClaim" and document["spec"]["accessModes"] != ["ReadWriteMany"]:
                yield f"{path}: the volume is for one node, though the guide chose one for many"
            template = document["spec"]["template"]["spec"] if kind == "Job" else document.get("spec", {})
            yield from (
                f"{path}: {container['image']} is another image than the guide's"
                for container in template.get("containers", [])
                if container["image"] != self.image
            )
            self.there[key] = document

    def delete(self, words, names):
        if "--all" in words:
            names = [key for key in self.there if key[0] == "Job"]
        if words[2] in ("pvc", "pod"):
            names += [({"pvc": "PersistentVolumeClaim", "pod": "Pod"}[words[2]], words[3])]
        for name in names:
            self.there.pop(name, None)


def breakages_of_guide():
    yield "Jobs that are there already", "kubectl delete job/nemo-curator-export", "true"
    yield "a shell that stays", "pod/data-inspector", ""
    yield "an image that nobody has", "s|newName: .*|", "s|newName: colophon|newName: other|; s|x|"
    yield "a volume of one node", "s/ReadWriteOnce$/ReadWriteMany/", "s/50Gi/60Gi/"
    yield "an overlay that is not named", "k8s/overlays/upload-hub", "k8s/overlays/upload-s3"
    yield "an overlay that is not there", "k8s/overlays/upload-hub", "k8s/overlays/upload-hug"
    yield "an impatient wait", " --timeout=300s", ""
    yield "a pod that is not there", "kubectl apply -k k8s/overlays/shell", "true"
    yield "what no shell reads", "for split in", "for in"


def check_components():
    """Each option can be added to an overlay."""
    with tempfile.TemporaryDirectory(dir=K8S) as folder:
        for component in COMPONENTS:
            lines = {"resources": ["../overlays/cpu"], "components": [f"../components/{component}"]}
            pathlib.Path(folder, "kustomization.yaml").write_text(json.dumps(lines))
            yield component, build(folder)


class Walk:
    """The steps of README.md: the Jobs' own containers, with a folder for their volume."""

    def __init__(self, program, overlays, folder):
        self.program, self.overlays, self.folder = program, overlays, folder
        self.data = folder / "data"
        self.data.mkdir()
        job_file = yaml_of(overlays["cpu"], "ConfigMap", "export-job")["data"]["job.toml"]
        self.job_file = folder / "job.toml"
        self.job_file.write_text(self.placed(job_file))

    def placed(self, text):
        return re.sub(r"(?<![\w./])/data(?![\w])", str(self.data), text)

    def run(self, overlay, name, status=0, **more):
        """Runs a Job's container."""
        _, container = container_of(self.overlays[overlay], name)
        args = [self.placed(arg).replace("/etc/colophon/job.toml", str(self.job_file)) for arg in container["args"]]
        env = {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry} | more
        args = [re.sub(r"\$\((\w+)\)", lambda match: env[match[1]], arg) for arg in args]
        run = self.program.run(args, env, cwd=self.folder)
        if run.returncode not in (status if isinstance(status, tuple) else (status,)):
            sys.exit(f"{overlay}: {args} ended with {run.returncode}, not {status}\n{run.stdout}{run.stderr}")
        if env.get("COLOPHON_LOG_FORMAT") == "json":
            for line in (run.stdout + run.stderr).splitlines():
                json.loads(line)
        return run

    def exported(self):
        return {path.name: path.read_bytes() for path in (self.data / "export").iterdir() if path.is_file()}

    def walk(self):
        self.run("demo", "nemo-curator-demo")
        page = self.folder / "figures.prom"
        done = self.run("cpu", "nemo-curator-export", COLOPHON_METRICS_FILE=str(page))
        last = json.loads(done.stderr.splitlines()[-1])
        assert (last["status"], last["lines"], last["exported"]) == (0, 705, 705), last
        self.figures(page.read_text())
        one_machine = self.exported()
        self.run("gpu", "nemo-curator-export")
        assert self.exported() == one_machine, "the overlay gpu exports something else"
        checked = self.run("inspect", "data-inspector")
        assert checked.stdout.endswith("VERIFIED\n"), checked.stdout
        self.guide(checked.stdout)
        print("   demo, cpu, gpu and inspect did what they should, and what README.md shows")
        if not self.program.lacks("merge"):
            self.workers(one_machine)
            self.planned()
        if not self.program.lacks("upload"):
            self.uploads()
        # Step 5's gate: bad data fail, and are not tried again.
        (self.data / "classified" / "bad.jsonl").write_text("bad\n" * 100)
        failed = self.run("cpu", "nemo-curator-export", status=1)
        assert json.loads(failed.stderr.splitlines()[-1])["status"] == 1, failed.stderr

    def guide(self, checklist):
        """What README.md shows is what a user will see."""
        guide = (K8S / "README.md").read_text()
        shown = {"the checklist": checklist}
        for args in (["validate", str(self.data / "export")], ["summary", str(self.data)]):
            shown[args[0]] = self.program.run(args).stdout
        stats = (self.data / "export" / "dataset_stats.json").read_text().splitlines(keepends=True)
        shown["dataset_stats.json"] = "".join(stats[:9])
        counts = {name: (self.data / "export" / f"{name}.jsonl").read_bytes().count(b"\n") for name in ("train", "validation", "test")}
        shown.update({name: f"  {name}: {count} documents (" for name, count in counts.items()})
        for name, text in shown.items():
            assert text and text in guide, f"README.md shows another {name}:\n{text}"

    def uploads(self):
        """Without a key, and with a server where nobody listens: the arguments are taken, the upload is not made."""
        nowhere = "http://127.0.0.1:9"
        s3 = {"S3_BUCKET": "s3://bucket", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "COLOPHON_ENDPOINT_URL": nowhere}
        for overlay, name, env in (("upload-s3", "s3-upload", s3), ("upload-hub", "hub-upload", {"HF_ENDPOINT": nowhere})):
            failed = self.run(overlay, name, status=(2, 3), **env)
            # The parser of the command line says how a command is used; what failed later does not.
            assert "Usage:" not in failed.stderr, failed.stderr
        print("   the uploads miss their keys, as they should")

    def workers(self, one_machine):
        job, _ = container_of(self.overlays["indexed"], "nemo-curator-export")
        number = job["spec"]["completions"]
        # The merge starts beside the workers: it has to be tried again until all parts are there.
        self.run("indexed", "nemo-curator-merge", status=3)
        for index in reversed(range(number)):
            if index == 0:
                self.run("indexed", "nemo-curator-merge", status=3)
            self.run("indexed", "nemo-curator-export", JOB_COMPLETION_INDEX=str(index))
        self.run("indexed", "nemo-curator-merge")
        splits = ("train.jsonl", "validation.jsonl", "test.jsonl", "dataset_stats.json")
        merged = self.exported()
        assert all(merged[name] == one_machine[name] for name in splits), "the merged export is another"
        print(f"   {number} workers and their merge made the same export")

    def planned(self):
        """What needs the whole corpus, by a plan that workers made: the job file says the selection, and where the plan is."""
        plain = self.job_file.read_text()
        # The guide's own lines, where it says that they go.
        (options,) = blocks_of((K8S / "README.md").read_text(), "toml")
        plan, selection = options.split("\n", 1)
        selection += 'split-method = "exact"\nstratify-by = "domain"\n'
        above = lambda lines: self.job_file.write_text(plain.replace("[constants]\n", f"{lines}\n[constants]\n"))
        above(selection)
        self.run("cpu", "nemo-curator-export")
        one_machine = self.exported()
        above(self.placed(f"{plan}\n{selection}"))
        number = container_of(self.overlays["plan"], "nemo-curator-plan-workers")[0]["spec"]["completions"]
        self.run("indexed", "nemo-curator-export", status=3, JOB_COMPLETION_INDEX="0")
        for index in range(number):
            self.run("plan", "nemo-curator-plan", status=3)
            self.run("plan", "nemo-curator-plan-workers", JOB_COMPLETION_INDEX=str(index))
        self.run("plan", "nemo-curator-plan")
        for index in range(container_of(self.overlays["indexed"], "nemo-curator-export")[0]["spec"]["completions"]):
            self.run("indexed", "nemo-curator-export", JOB_COMPLETION_INDEX=str(index))
        self.run("indexed", "nemo-curator-merge")
        assert self.exported() == one_machine, "the export by the workers' plan is another"
        assert not (self.data / "export" / "parts").exists(), "parts are left"
        self.job_file.write_text(plain)
        print("   planned by workers, exported by workers, merged: the same export")

    @staticmethod
    def figures(page):
        """Prometheus's own client reads the figures."""
        families = {family.name: family for family in text_string_to_metric_families(page)}
        value = lambda name: sum(sample.value for sample in families[f"colophon_{name}"].samples)
        assert (value("exit_status"), value("documents"), value("ledger_lines")) == (0, 705, 705), page
        assert families["colophon_processed_bytes"].type == "counter", page
        assert all(family.documentation for family in families.values()), page


def check_image():
    """What the Dockerfile and the manifests have to agree on."""
    root = K8S.parent
    dockerfile = (root / "Dockerfile").read_text()
    cargo = (root / "Cargo.toml").read_text()
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    images = [line.split()[1] for line in lines if line.startswith("FROM")]
    numbers = lambda text: tuple(int(part) for part in (text + ".0").split(".")[:3])
    toolchain = numbers(re.search(r"rust:(\d+\.\d+\.\d+)-", images[0]).group(1))
    if toolchain < numbers(re.search(r'rust-version = "([\d.]+)"', cargo).group(1)):
        yield "the toolchain is older than Cargo.toml asks for"
    yield from (f"{image} is not pinned" for image in images if ":" not in image or image.endswith(":latest"))
    if f"USER {USER}:{USER}" not in lines:
        yield "not the manifests' user"
    if not any(line.startswith('ENTRYPOINT ["/usr/local/bin/colophon"]') for line in lines):
        yield "the program is not process 1"
    if any("NVIDIA_VISIBLE_DEVICES=" in line for line in lines):
        yield "every container would get all GPUs"
    version = re.search(r'^version = "([^"]+)"', cargo, re.M).group(1)
    for file in (K8S / "argo" / "export.yaml", K8S / "components" / "image" / "kustomization.yaml"):
        if re.search(r"(?:newTag: |colophon:)([\d.]+)\n", file.read_text()).group(1) != version:
            yield f"{file.relative_to(root)} has another version than Cargo.toml"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("colophon")
    parser.add_argument("--not-yet", default="", type=lambda text: [word for word in text.split(",") if word])
    options = parser.parse_args()
    program = Program(options.colophon, options.not_yet)
    overlays = {name: build(K8S / "overlays" / name) for name in OVERLAYS}
    found = [f"{name}: {problem}" for name, documents in overlays.items() for problem in problems_of(documents, program)]
    argo = build(K8S / "argo")
    found += problems_of(argo, program)
    found += problems_between(overlays)
    for component, documents in check_components():
        found += [f"with {component}: {problem}" for problem in problems_of(documents, program)]
    found += [f"argo: {problem}" for problem in check_argo(program) + check_argo_account(argo)]
    found += [f"Dockerfile: {problem}" for problem in check_image()]
    found += [f"shell: {problem}" for problem in check_shell(overlays["shell"], program)]
    found += [f"README.md: {problem}" for problem in problems_of_guide((K8S / "README.md").read_text())]
    if missing := {path.name for path in (K8S / "overlays").iterdir()} - set(OVERLAYS):
        found.append(f"nobody checks {missing}")
    if found:
        sys.exit("\n".join(found))
    print(f"   {len(overlays)} overlays, {len(COMPONENTS)} components and a workflow are as they should be")
    check_the_rules(overlays, program)
    print(f"   {sum(len(list(all_of())) for all_of in (breakages, breakages_between, breakages_of_guide))} faults were seen")
    with tempfile.TemporaryDirectory() as folder:
        Walk(program, overlays, pathlib.Path(folder)).walk()
    for word in sorted(program.not_yet):
        print(f"   not checked where this build lacks it: {word}")


if __name__ == "__main__":
    main()
