"""What every package of tasks can be asked on the command line: its tasks, their examples, files of them."""

from typing import Any, ClassVar

from pydantic import Field, field_validator

from core.cli import Verb
from core.config import Config, construct, domain
from core.errors import UserError
from core.export import ExportConfig, export
from core.run_config import with_parameters
from core.show import ShowConfig, View, inspect
from core.split import check_prompts
from core.task import Task, task_class, task_names


class TaskConfig(Config):
    """Keys among which are the parameters of the task that `task` names, a file of `package`."""

    package: ClassVar[str]

    task: str = Field(description="the task; its own parameters are keys as well, `list` shows them")

    @field_validator("task")
    @classmethod
    def _is_task(cls, task: str) -> str:
        task_class(cls.package, task)
        return task

    def build_task(self) -> Task:
        """The task with its parameters. Raises ValueError in words."""
        kind = task_class(self.package, self.task)
        parameters = {name: getattr(self, name) for name in kind.model_fields}
        try:
            return construct(kind, parameters)
        except ValueError as error:
            raise ValueError(f"task {self.task}: {error}") from error


class Look(TaskConfig, ShowConfig):
    seed: int = Field(42, ge=0, description="of the examples")


class Export(TaskConfig, ExportConfig):
    seed: int = Field(42, ge=0, description="of the examples")


def task_verbs(package: str) -> dict[str, Verb]:
    """`list`, `inspect TASK` and `export TASK` for the tasks of a package."""
    look, files = (
        type(base.__name__, (base,), {"package": package, "__module__": __name__}) for base in (Look, Export)
    )
    return {
        "list": Verb(lambda: list_tasks(package)),
        "inspect": Verb(_inspect, lambda keys: with_parameters(look, package, keys), word="task"),
        "export": Verb(_export, lambda keys: with_parameters(files, package, keys), word="task"),
    }


def list_tasks(package: str) -> None:
    """Prints every task with its parameters."""
    for name in task_names(package):
        kind = task_class(package, name)
        print(f"{name}: {(kind.__doc__ or '').strip().splitlines()[0]}")
        for key, field in kind.model_fields.items():
            print(f"    {key} = {field.default}  ({domain(field)}) {field.description or ''}")


def _inspect(config: Look) -> None:
    inspect(View.of_task(_built(config), config.seed), config)


def _export(config: Export) -> None:
    export_task(_built(config), config.seed, config)


def export_task(task: Task, seed: int, config: ExportConfig) -> None:
    """Writes the examples of a task. Raises UserError, before anything is written, if a split has none."""
    for split in config.sizes:
        check_prompts(task, seed, split)
    identity: dict[str, Any] = {"task": task.name, "parameters": task.model_dump(), "seed": seed}
    export(View.of_task(task, seed), {**identity, "fingerprint": task.fingerprint}, config)


def _built(config: TaskConfig) -> Task:
    try:
        return config.build_task()
    except ValueError as error:
        raise UserError(str(error)) from error
