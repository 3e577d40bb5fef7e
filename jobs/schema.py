"""The keys of a JOB.yaml as a JSON Schema, for editors; made from the models that check the file."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from inference.tasks import available_tasks, task_class
from jobs.config import JobConfig, TaskSection
from jobs.keys import Schema, describe, name_of


def job_schema() -> Schema:
    """The schema of a job file; the options that `task.options` takes follow from `task.name`."""
    options = {name: task_class(name).options_class for name in available_tasks()}
    models: list[type[BaseModel]] = [JobConfig, TaskSection, *options.values()]
    references, schema = models_json_schema([(model, "validation") for model in models], title="JOB.yaml of shardlabel")
    definitions = schema.pop("$defs")
    task = definitions[name_of(references[TaskSection, "validation"])]
    task["properties"]["name"]["enum"] = list(options)
    default = TaskSection().name
    task["allOf"] = [
        {
            "if": {"properties": {"name": {"const": name}}, "required": [] if name == default else ["name"]},
            "then": {"properties": {"options": references[model, "validation"]}},
        }
        for name, model in options.items()
    ]
    root = definitions.pop(name_of(references[JobConfig, "validation"]))
    dialect = "https://json-schema.org/draft/2020-12/schema"
    described: Schema = _in_yaml({"$schema": dialect, **root, **schema, "$defs": definitions})
    return described


def _in_yaml(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_in_yaml(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: describe(value) if key == "description" and isinstance(value, str) else _in_yaml(value)
        for key, value in schema.items()
    }
