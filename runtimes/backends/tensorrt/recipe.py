"""How the engines of a bundle are built, as its manifest keeps it, and what they are tied to in consequence."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, PositiveInt, ValidationError

from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.cuda import Gpu
from vqrae.runtimes.backends.tensorrt.ties import PORTABLE, this_platform
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.manifest import EngineTies, RuntimeInfo

_LEAST_OF_AMPERE = "8.0"


def _split(value: Any) -> Any:
    return tuple(value.split(",")) if isinstance(value, str) else value


class EngineRecipe(Record):
    """The options of a build. `compute_capabilities` are for portable engines, which know none of what follows them."""

    workspace_mb: PositiveInt | None = None
    """Most scratch memory, in MiB; None is the framework's own limit."""
    compute_capabilities: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """GPUs that the engine is for, such as `8.6`."""
    version_compatible: bool = False
    """Load under later versions of the same major."""
    hardware_compatible: Literal["none", "ampere-plus", "same-compute-capability"] = "none"
    """Load on other GPUs than the one it was built on."""

    @classmethod
    def from_manifest(cls, subject: str, runtime: RuntimeInfo) -> Self:
        """The recipe of a bundle that was built before.

        Raises:
            BundleError: the manifest holds none.
        """
        try:
            return cls.model_validate(runtime.options)
        except ValidationError as error:
            got = error.errors(include_url=False)[0]["msg"]
            expected = "the options that its engines were built with"
            raise BundleError(f"{subject} options", got=got, expected=expected, remedy="export it again") from error

    def also_for(self, api: EngineApi, gpu: Gpu | None) -> Self:
        """The recipe, with a GPU among those that a portable engine is for; itself where there is no GPU.

        Raises:
            RuntimeUnavailable: the framework does not build for it.
        """
        if gpu is None or not api.portable:
            return self
        if gpu.compute_capability not in api.compute_capabilities:
            got, expected = f"compute capability {gpu.compute_capability}", " or ".join(api.compute_capabilities)
            raise RuntimeUnavailable(f"{api.name} on {gpu}", got=got, expected=expected)
        capabilities = dict.fromkeys((*self.compute_capabilities, gpu.compute_capability))
        return self.model_copy(update={"compute_capabilities": tuple(capabilities)})

    def options(self) -> dict[str, str | int | bool]:
        """The recipe for the manifest, which knows no lists; what is left out is the default."""
        values = self.model_dump(exclude_defaults=True)
        return {name: ",".join(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def portable_ties(self, version: str) -> EngineTies:
        """The ties of a portable engine that this version of the framework builds."""
        return EngineTies(
            version=version,
            any_newer_version=False,
            platform=PORTABLE,
            compute_capabilities=self.compute_capabilities,
            newer_hardware=False,
        )

    def local_ties(self, version: str, gpu: Gpu) -> EngineTies:
        """The ties of an engine that this version of the framework builds on a GPU of this machine."""
        newer = self.hardware_compatible == "ampere-plus"
        return EngineTies(
            version=version,
            any_newer_version=self.version_compatible,
            platform=this_platform(),
            compute_capabilities=(_LEAST_OF_AMPERE if newer else gpu.compute_capability,),
            newer_hardware=newer,
        )
