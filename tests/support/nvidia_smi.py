"""Documents of nvidia-smi."""

from __future__ import annotations

# Made up for these tests, in the shape of each document type.
V11 = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v11.dtd">
<nvidia_smi_log>
  <driver_version>470.256.02</driver_version>
  <cuda_version>11.4</cuda_version>
  <attached_gpus>{count}</attached_gpus>
{gpus}
</nvidia_smi_log>
"""
GPU = """  <gpu id="00000000:00:{slot}.0">
    <product_name>{name}</product_name>
    <persistence_mode>{persistence}</persistence_mode>
    <mig_mode><current_mig>N/A</current_mig></mig_mode>
    <uuid>GPU-{slot}</uuid>
    <pci><pci_bus_id>00000000:00:{slot}.0</pci_bus_id></pci>
    <fan_speed>N/A</fan_speed>
    <performance_state>P8</performance_state>
    <fb_memory_usage><total>{memory}</total><used>3 MiB</used></fb_memory_usage>
    <temperature><gpu_temp>31 C</gpu_temp></temperature>
    {more}
  </gpu>"""


def gpu(
    name: str = "Tesla T4",
    *,
    memory: str = "15109 MiB",
    slot: str = "1E",
    more: str = "",
    persistence: str = "Enabled",
) -> str:
    return GPU.format(name=name, memory=memory, slot=slot, more=more, persistence=persistence)


def document(*gpus: str) -> str:
    return V11.format(count=len(gpus), gpus="\n".join(gpus))
