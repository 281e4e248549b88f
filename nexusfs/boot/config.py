"""The configuration: one frozen model from command line, environment, file and defaults.

Provider keys never enter it: the file's table `[keys]` is reduced to its names here, and the
environment's go to the model worker unread (see `environment`).
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.words import nearest
from nexusfs.services.sandbox.limits import SandboxSettings

HIDDEN = "***"
CLAUDE_MODELS = {
    "sonnet": "anthropic/claude-sonnet-4-5",
    "opus": "anthropic/claude-opus-4-5",
    "haiku": "anthropic/claude-haiku-4-5",
}
"""The names that Claude Code's agents use. Source: the model names of litellm's price list."""
PRECEDENCE = ("command line", "environment NEXUSFS_*", "file", "default")


class ToolLimits(BaseModel):
    """How much tools give back at once; the reply says what was cut."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    read_chars: int = Field(50_000, ge=100)
    output_chars: int = Field(100_000, ge=100)
    grep_hits: int = Field(50, ge=1)
    grep_chars: int = Field(200, ge=20)
    list_entries: int = Field(100, ge=1)


class LimitDefaults(BaseModel):
    """What agents may cost that say nothing of it themselves; none: anything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cost_usd_per_agent: float | None = Field(5.0, ge=0)
    cost_usd_per_user_day: float | None = Field(20.0, ge=0)
    unknown_price: Literal["refuse", "allow"] = "refuse"


class RightsDefaults(BaseModel):
    """What binds agents beside their own rights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all_three_labels: Literal["deny", "ask", "allow"] = Field(
        "ask", description="calls with an external effect, of agents that hold all three labels"
    )


class Config(BaseSettings):
    """The effective configuration. Unknown keys are errors."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="NEXUSFS_", env_nested_delimiter="__"
    )

    default_model: str = Field("offline/demo", description="what agents use that name no model")
    model_aliases: dict[str, str] = Field(
        default_factory=lambda: dict(CLAUDE_MODELS), description="short names of models"
    )
    keys: dict[str, str] = Field(
        default_factory=dict, description="provider keys, for the worker only"
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    log_max_bytes: int = Field(
        10 << 20, ge=4096, description="the log file is rotated at this size"
    )
    log_backups: int = Field(5, ge=0, description="rotated log files that are kept")
    retain_count: int = Field(1000, ge=0, description="ended agents that stay listed")
    retain_seconds: float | None = Field(None, ge=0, description="and how long; none: no limit")
    model_slots: int = Field(100, ge=1, description="model calls that run at once")
    slots_per_owner: int = Field(10, ge=1, description="of them, those of one user's agents")
    stop_grace_s: float = Field(
        5.0, ge=0, description="how long a clean stop waits for tool calls under way"
    )
    tool_modules: tuple[str, ...] = Field(
        (), description="Python modules whose TOOLS are registered beside the built-in ones"
    )
    services_off: tuple[Literal["tools", "sandbox", "models", "agents", "hooks", "audit"], ...] = (
        Field((), description="services that are not started")
    )
    tools: ToolLimits = Field(default_factory=lambda: ToolLimits.model_validate({}))
    limits: LimitDefaults = Field(default_factory=lambda: LimitDefaults.model_validate({}))
    rights: RightsDefaults = Field(default_factory=lambda: RightsDefaults.model_validate({}))
    sandbox: SandboxSettings = Field(default_factory=lambda: SandboxSettings.model_validate({}))

    @field_validator("keys", mode="before")
    @classmethod
    def _hide(cls, value: Any) -> Any:
        return dict.fromkeys(value, HIDDEN) if isinstance(value, dict) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before what is passed in, which is the file's content."""
        return (env_settings, init_settings)


def load_config(path: Path) -> Config:
    """The effective configuration.

    Raises:
        InvalidError: EINVAL, with the file, the key at fault and what it takes.
    """
    values: dict[str, Any] = {}
    if path.is_file():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise InvalidError(f"{path}: {exc}") from None
    try:
        return Config(**values)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        near = nearest(place, Config.model_fields) if fault["type"] == "extra_forbidden" else None
        text = f"no such key: did you mean {near!r}?" if near else fault["msg"]
        raise InvalidError(f"{path} or NEXUSFS_*: {place}: {text}") from None


def show_config(config: Config, path: Path) -> bytes:
    """sys/config: the values, where each may come from, and the file."""
    body = {
        "file": str(path),
        "file_exists": path.is_file(),
        "precedence": list(PRECEDENCE),
        "values": config.model_dump(mode="json"),
    }
    return json.dumps(body, indent=2).encode() + b"\n"
