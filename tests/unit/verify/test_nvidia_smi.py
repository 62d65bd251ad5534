"""The XML of every driver's nvidia-smi is parsed into values; any other text is an error."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.errors import BakeError, VerificationError
from bake.verify.nvidia_smi import parse
from tests.support.nvidia_smi import document, gpu


def test_a_healthy_gpu_is_parsed_without_units() -> None:
    report = parse(document(gpu()))
    (found,) = report.gpus
    assert report.driver_version == "470.256.02"
    assert report.cuda_version == "11.4"
    assert (found.index, found.uuid, found.name) == (0, "GPU-1E", "Tesla T4")
    assert (found.bus_id, found.memory_mib) == ("00000000:00:1E.0", 15109)
    assert (found.errors, found.faulty, found.recovery, found.fabric) == ({}, False, None, None)


def test_the_gpus_keep_their_order() -> None:
    gpus = parse(document(*(gpu(slot=f"1{index}") for index in range(8)))).gpus
    assert [found.index for found in gpus] == list(range(8))
    assert [found.uuid for found in gpus] == [f"GPU-1{index}" for index in range(8)]


@pytest.mark.parametrize(
    "versions",
    [
        # 610: the old field is still there, with a word about the new one.
        "<driver_version>610.1.2 [Deprecated; use another]</driver_version>"
        "<kmd_version>610.1.2</kmd_version><cuda_umd_version>13.3</cuda_umd_version>",
        "<kmd_version>610.1.2</kmd_version><cuda_umd_version>13.3</cuda_umd_version>",
        '<driver_version>Deprecated, see "KMD version"</driver_version>'
        "<kmd_version>610.1.2</kmd_version><cuda_version>13.3 [Deprecated]</cuda_version>",
        "<driver_version>610.1.2 [Deprecated]</driver_version><cuda_version>13.3</cuda_version>",
    ],
)
def test_versions_are_found_under_their_old_and_their_new_names(versions: str) -> None:
    report = parse(f"<nvidia_smi_log>{versions}</nvidia_smi_log>")
    assert (report.driver_version, report.cuda_version) == ("610.1.2", "13.3")


@pytest.mark.parametrize(
    ("element", "field", "value"),
    [
        ("<gpu_recovery_action>Reset</gpu_recovery_action>", "recovery", "Reset"),
        ("<gpu_recovery_action>None</gpu_recovery_action>", "recovery", None),
        (
            "<fabric><state>In Progress</state><status>N/A</status></fabric>",
            "fabric",
            "In Progress",
        ),
        (
            "<fabric><state>Completed</state><status>Success</status></fabric>",
            "fabric",
            "Completed Success",
        ),
        ("<fabric><state>N/A</state><status>N/A</status></fabric>", "fabric", None),
        ("<gpu_recovery_action>Unknown Error</gpu_recovery_action>", "recovery", None),
        (
            "<gpu_recovery_action>Requested functionality has been deprecated"
            "</gpu_recovery_action>",
            "recovery",
            None,
        ),
        (
            "<fabric><health><summary>Healthy</summary><bandwidth>Full</bandwidth>"
            "<route_unhealthy>False</route_unhealthy><partition_assigned>True</partition_assigned>"
            "</health></fabric>",
            "fabric_problems",
            (),
        ),
        (
            "<fabric><health><summary>Limited Capacity</summary><bandwidth>Degraded</bandwidth>"
            "</health></fabric>",
            "fabric_problems",
            ("summary: Limited Capacity", "bandwidth: Degraded"),
        ),
        ("<remapped_rows>N/A</remapped_rows>", "flags", frozenset()),
        (
            "<gpu_reset_status><reset_required>No</reset_required><drain_and_reset_recommended>"
            "Requested functionality has been deprecated</drain_and_reset_recommended>"
            "</gpu_reset_status>",
            "flags",
            frozenset(),
        ),
        (
            "<remapped_rows><remapped_row_pending>No</remapped_row_pending>"
            "<remapped_row_failure>Yes</remapped_row_failure></remapped_rows>",
            "flags",
            {"remapped_row_failure"},
        ),
        (
            "<ecc_errors><aggregate><sram_threshold_exceeded>Yes</sram_threshold_exceeded>"
            "</aggregate><tpc_repair_pending>Yes</tpc_repair_pending></ecc_errors>",
            "flags",
            {"sram_threshold_exceeded", "tpc_repair_pending"},
        ),
        # Three ways to count what could not be corrected: Kepler, Ampere, Hopper.
        (
            "<ecc_errors><volatile><double_bit><total>2</total></double_bit></volatile></ecc_errors>",
            "uncorrectable",
            2,
        ),
        (
            "<ecc_errors><volatile><sram_correctable>9</sram_correctable>"
            "<sram_uncorrectable>1</sram_uncorrectable><dram_uncorrectable>4</dram_uncorrectable>"
            "</volatile></ecc_errors>",
            "uncorrectable",
            5,
        ),
        (
            "<ecc_errors><volatile><sram_uncorrectable_parity>1</sram_uncorrectable_parity>"
            "<sram_uncorrectable_secded>2</sram_uncorrectable_secded></volatile></ecc_errors>",
            "uncorrectable",
            3,
        ),
        # Those of the board's whole life are no sign of how it is now.
        (
            "<ecc_errors><volatile><sram_uncorrectable>N/A</sram_uncorrectable></volatile>"
            "<aggregate><dram_uncorrectable>7</dram_uncorrectable></aggregate></ecc_errors>",
            "uncorrectable",
            0,
        ),
    ],
)
def test_the_elements_about_a_gpus_health_are_parsed(
    element: str, field: str, value: object
) -> None:
    (found,) = parse(document(gpu(more=element))).gpus
    assert getattr(found, field) == value


def test_what_a_divided_gpu_hides_is_not_a_fault() -> None:
    hidden = gpu(memory="Insufficient Permissions")
    (found,) = parse(document(hidden)).gpus
    assert found.faulty
    (found,) = parse(document(hidden.replace("<current_mig>N/A", "<current_mig>Enabled"))).gpus
    assert (found.mig, found.errors, found.faulty) == (True, {}, False)


def test_a_gpu_divided_by_mig_is_recognised() -> None:
    (found,) = parse(document(gpu().replace("<current_mig>N/A", "<current_mig>Enabled"))).gpus
    assert found.mig


@pytest.mark.parametrize("error", ["ERR!", "Unknown Error", "[Unknown Error]", "GPU is lost"])
def test_a_gpu_that_cannot_be_read_is_faulty(error: str) -> None:
    (found,) = parse(document(gpu(error))).gpus
    assert found.faulty
    assert found.errors == {"product_name": error}


@pytest.mark.parametrize("error", ["GPU is lost", "GPU requires reset", "[GPU requires reset]"])
def test_a_gpu_is_lost_whichever_element_reports_it(error: str) -> None:
    text = gpu().replace("<fan_speed>N/A", f"<fan_speed>{error}")
    (found,) = parse(document(text)).gpus
    assert found.faulty


@pytest.mark.parametrize(
    "harmless",
    [
        gpu().replace("<fan_speed>N/A", "<fan_speed>Unknown Error"),
        # A newer nvidia-smi asks an older driver for what it does not have.
        gpu().replace("<current_mig>N/A", "<current_mig>ERR!"),
    ],
)
def test_an_unreadable_fan_or_mig_field_is_not_a_fault(harmless: str) -> None:
    (found,) = parse(document(harmless)).gpus
    assert len(found.errors) == 1
    assert not found.faulty


def test_memory_that_cannot_be_read_is_none_and_not_0() -> None:
    (found,) = parse(document(gpu(memory="Unknown Error"))).gpus
    assert found.memory_mib is None
    assert found.faulty


def test_messages_around_the_document_are_kept() -> None:
    before = "Unable to determine the device handle for GPU 0000:00:1F.0: Unknown Error\n"
    after = "WARNING: infoROM is corrupted at gpu 0000:00:1E.0\n"
    report = parse(before + document(gpu()) + after)
    assert len(report.gpus) == 1
    assert report.messages == f"{before}{after}".strip()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "printed no XML"),
        ("No devices were found\n", "printed no XML"),
        (document(gpu())[:-40], "Cannot parse"),
        (
            "<nvidia_smi_log><driver_version>N/A</driver_version></nvidia_smi_log>",
            "not report the driver's version",
        ),
        ('<?xml version="1.0"?><html></html>', "type html"),
        (
            '<!DOCTYPE nvidia_smi_log [<!ENTITY a "b">]>'
            "<nvidia_smi_log><driver_version>&a;</driver_version></nvidia_smi_log>",
            "declares the entity a",
        ),
        (
            '<!DOCTYPE nvidia_smi_log [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
            "<nvidia_smi_log><driver_version>&a;</driver_version></nvidia_smi_log>",
            "declares the entity a",
        ),
        (
            '<!DOCTYPE nvidia_smi_log [<!ENTITY % a SYSTEM "http://127.0.0.1:9/a.dtd">%a;]>'
            "<nvidia_smi_log><driver_version>1.2</driver_version></nvidia_smi_log>",
            "declares the entity a",
        ),
        (
            '<!DOCTYPE nvidia_smi_log [<!ENTITY a "aa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
            "<nvidia_smi_log><driver_version>&b;</driver_version></nvidia_smi_log>",
            "declares the entity a",
        ),
    ],
)
def test_any_other_text_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(VerificationError, match=reason):
        parse(text)


def test_the_dtd_that_nvidia_smi_names_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr("socket.socket.connect", refuse)
    text = document(gpu()).replace("nvsmi_device_v11.dtd", "http://127.0.0.1:9/a.dtd")
    assert parse(text).driver_version == "470.256.02"


def test_an_encoding_that_python_does_not_know_has_no_effect() -> None:
    text = document(gpu()).replace('version="1.0"', 'version="1.0" encoding="unknown-8"')
    assert parse(text).driver_version == "470.256.02"


def test_any_text_is_parsed_or_refused() -> None:
    tags = ["<gpu>", "</gpu>", "<nvidia_smi_log>", "</nvidia_smi_log>", "<driver_version>", "<"]
    declarations = ["<?xml", "<!DOCTYPE x [", "<!ENTITY a 'b'>", "]>", "&a;"]
    words = st.sampled_from([*tags, *declarations, "1.2", "ERR!", "N/A", "\0", "\ud800"])

    @given(st.lists(words | st.text(max_size=8), max_size=30).map("".join))
    def check(text: str) -> None:
        with suppress(BakeError):
            parse(text)

    check()


def test_any_value_can_be_parsed() -> None:
    allowed = st.characters(exclude_categories=("C",), exclude_characters="<&>")

    @given(
        st.text(allowed, max_size=40), st.text(allowed, max_size=40), st.text(allowed, max_size=40)
    )
    def check(name: str, memory: str, more: str) -> None:
        elements = (
            f"<gpu_recovery_action>{more}</gpu_recovery_action><ecc_errors><volatile>"
            f"<sram_uncorrectable>{more}</sram_uncorrectable></volatile></ecc_errors>"
        )
        (found,) = parse(document(gpu(name, memory=memory, more=elements))).gpus
        assert found.name == name.strip()

    check()
