"""Instance types: what EC2 says about them, joined with what the catalog knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bake import catalog as catalogs
from bake.aws.instance_type import TypeDescription, add_types, describe_types, with_types
from bake.aws.price import on_demand
from bake.aws.quota import how_to_raise, quota_code
from tests.support.aws_in_process import Aws, aws_in_process

CATALOG = catalogs.load()


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def test_a_type_is_described_with_its_processors_memory_and_boot_modes(aws: Aws) -> None:
    found = describe_types(aws.cloud, ["m7i.large", "t2.micro", "no.such"])
    assert sorted(found) == ["m7i.large", "t2.micro"]
    assert found["m7i.large"] == TypeDescription(
        name="m7i.large",
        vcpus=2,
        memory_mib=8192,
        architectures=("x86_64",),
        boot_modes=("legacy-bios", "uefi"),
        usage_classes=("on-demand", "spot"),
        ena="required",
    )
    assert found["t2.micro"].boot_modes == ("legacy-bios",)
    assert found["t2.micro"].ena == "unsupported"


def test_gpus_are_described_with_their_maker_number_and_memory(aws: Aws) -> None:
    found = describe_types(aws.cloud, ["g5.12xlarge", "g6f.large"])
    four, slice_of_one = found["g5.12xlarge"], found["g6f.large"]
    assert (four.gpu, four.gpu_maker, four.gpus, four.gpu_memory_mib) == (
        "A10G",
        "NVIDIA",
        4,
        22888,
    )
    assert not four.fractional
    assert (slice_of_one.gpu, slice_of_one.gpus, slice_of_one.fractional) == ("L4", 0, True)


def test_more_types_than_a_filter_takes_are_several_requests(aws: Aws) -> None:
    names = [f"none{number}.large" for number in range(200)]
    assert list(describe_types(aws.cloud, [*names, "m7i.large"])) == ["m7i.large"]
    assert aws.sent.count("DescribeInstanceTypes") == 2


def test_ec2_is_asked_only_about_types_that_the_catalog_does_not_have(aws: Aws) -> None:
    aws.sent.clear()
    assert with_types(aws.cloud, CATALOG, ["g4dn.xlarge"]) is CATALOG
    assert aws.sent == []
    found = with_types(aws.cloud, CATALOG, ["g4dn.xlarge", "c7g.large", "no.such"])
    [filters] = [call["Filters"][0]["Values"] for call in aws.params("DescribeInstanceTypes")]
    assert filters == ["c7g.large", "no.such"]
    assert set(found.instance_types) - set(CATALOG.instance_types) == {"c7g.large"}
    machine = found.instance_types["c7g.large"]
    assert (machine.gpu, machine.gpus, machine.architecture) == ("", 0, "arm64")


def test_every_type_that_ec2_describes_has_the_catalogs_gpu_and_memory(aws: Aws) -> None:
    """Each GPU type of the catalog that EC2 still describes is what the catalog says of it."""
    described = describe_types(aws.cloud, CATALOG.instance_types)
    assert len(described) > 50
    found = add_types(replace(CATALOG, instance_types={}), described.values()).instance_types
    for name, machine in found.items():
        known = CATALOG.instance_types[name]
        for part in ("gpu", "gpus", "gpu_memory_mib", "vcpus", "memory_mib", "capability"):
            assert getattr(machine, part) == getattr(known, part), (name, part)
        assert machine.architecture == known.architecture
        assert machine.quota_code == known.quota_code


def test_a_new_size_of_a_known_family_has_what_ec2_does_not_say_from_its_family() -> None:
    described = TypeDescription(
        "p5.24xlarge", 96, 1048576, ("x86_64",), gpu="H100", gpu_maker="NVIDIA", gpus=4
    )
    machine = add_types(CATALOG, [described]).instance_types["p5.24xlarge"]
    assert (machine.gpu, machine.gpus, machine.capability) == ("H100", 4, "9.0")
    assert machine.spot_quota_code == "L-C4BD4855"
    assert machine.fabric_manager is True


def test_a_gpu_that_the_catalog_does_not_know_keeps_ec2s_name() -> None:
    described = TypeDescription(
        "g9.large", 2, 8192, ("x86_64",), gpu="L900", gpu_maker="NVIDIA", gpus=1
    )
    machine = add_types(CATALOG, [described]).instance_types["g9.large"]
    assert (machine.gpu, machine.capability) == ("L900", "")
    assert machine.quota_code == "L-DB2E81BA"


def test_a_gpu_of_another_maker_counts_as_none() -> None:
    described = TypeDescription(
        "g4ad.xlarge", 4, 16384, ("x86_64",), gpu="Radeon Pro V520", gpu_maker="AMD", gpus=1
    )
    machine = add_types(CATALOG, [described]).instance_types["g4ad.xlarge"]
    assert (machine.gpu, machine.gpus) == ("", 0)


@pytest.mark.parametrize(
    ("name", "on_demand", "spot"),
    [
        ("m7i-flex.large", "L-1216C47A", "L-34B43A08"),
        ("im4gn.large", "L-1216C47A", "L-34B43A08"),
        ("x2idn.16xlarge", "L-7295265B", "L-E3A00192"),
        ("inf2.xlarge", "L-1945791B", "L-B5D1601B"),
        ("trn1.2xlarge", "L-2C3B7624", "L-6B0D517C"),
        ("hpc7a.12xlarge", "L-F7808C92", None),
        ("u7i-12tb.224xlarge", "L-43DA4232", None),
        ("p9.48xlarge", "L-417A185B", None),
        ("mac2.metal", None, None),
        ("", None, None),
    ],
)
def test_every_family_has_the_quotas_of_its_letters(
    name: str, on_demand: str | None, spot: str | None
) -> None:
    assert quota_code(name, "on-demand") == on_demand
    assert quota_code(name, "spot") == spot


def test_a_quota_of_any_type_is_raised_with_our_own_command(aws: Aws) -> None:
    hint = how_to_raise(aws.cloud, "m7i.large", "spot", 8)
    assert hint.endswith("invoke quota --region us-east-1 --type m7i.large --spot --raise 8")


def test_a_type_without_gpus_has_its_price(aws: Aws) -> None:
    aws.usd = {"m7i.large": 0.1008}
    assert on_demand(aws.cloud, ["m7i.large"]) == {"m7i.large": 0.1008}
