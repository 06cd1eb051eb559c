"""Power rails of Jetson boards by name: what each covers, and which of them make up the total.

    VDD_IN, POM_5V_IN, VIN        an input rail: the total
    AGX Orin                      no input rail: VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0. VDDQ_VDD2_1V8AO is fed
                                  from VIN_SYS_5V0; adding it too, as jtop does, counts it twice
    AGX Xavier                    no input rail: the sum of its six

No Orin has a rail of the GPU alone. Names are the vendor's and stay as they are. Rails that are not known here have
no total: the sum of all may count one twice.
"""

from typing import Collection, Dict, Mapping, Tuple

INPUTS = {
    "VIN": "system input, carrier board included",
    "VDD_IN": "module input: everything on the module, without carrier board",
    "POM_5V_IN": "module input: everything on the module, without carrier board",
}
SUMS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
SUM_SCOPE = "sum of rails: the module without carrier board"
FED_FROM = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_SCOPES = {
    **INPUTS,
    "VDD_CPU_GPU_CV": "CPU, GPU and vision engines together",
    "VDD_SOC": "rest of the SoC: memory controller, I/O and video engines",
    "VDD_GPU_SOC": "GPU and SoC together",
    "VDD_CPU_CV": "CPU and vision engines together",
    "VIN_SYS_5V0": "5 V system rail: memory, I/O; feeds VDDQ_VDD2_1V8AO",
    "VDDQ_VDD2_1V8AO": "memory, part of VIN_SYS_5V0",
    "GPU": "GPU alone",
    "CPU": "CPU alone",
    "SOC": "SoC without CPU and GPU",
    "CV": "vision engines",
    "VDDRQ": "memory",
    "SYS5V": "5 V system rail: I/O",
    "POM_5V_GPU": "GPU alone",
    "POM_5V_CPU": "CPU alone",
    "VDD_GPU": "GPU alone",
    "VDD_CPU_SOC_MSS": "CPU, SoC and memory subsystem together",
}


def scope(name: str) -> str:
    """What a rail covers, in words."""
    return _SCOPES.get(name, "not documented")


def total_parts(names: Collection[str]) -> Tuple[str, ...]:
    """The rails that add up to the power of the whole; empty if these cannot."""
    # An input rail first: it also holds what the regulators behind it lose.
    for name in INPUTS:
        if name in names:
            return (name,)
    return next((parts for parts in SUMS if set(parts) <= set(names)), ())


def total_name(parts: Tuple[str, ...]) -> str:
    """Name of the total: the input rail's own, or the names joined."""
    return "+".join(parts)


def double_count_w(power_w: Mapping[str, float]) -> Dict[str, float]:
    """Rails that a plain sum of all would count twice, with their power now; empty on most boards."""
    return {name: power_w[name] for name, source in FED_FROM.items() if name in power_w and source in power_w}
