"""Looks at the parts of the course: base model, device profile, workspace, JupyterLab."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from course.doctor.finding import Finding


def base_model() -> Finding:
    """Whether the base model is there, whole and converted."""
    from course.model_cache import problem_with_folder
    from course.model_conversion import converted_folder
    from course.model_source import BaseModelError, bundled_source, verify_source

    if named := os.environ.get("COURSE_MODEL"):
        from course.base_model import base_model_folder

        try:
            location = base_model_folder()
        except BaseModelError as error:
            return Finding("base model", "missing", f"COURSE_MODEL={named}", str(error))
        if isinstance(location, Path):
            return Finding("base model", "ok", f"the folder {location}")
        return Finding("base model", "limited", f"{location} from the Hugging Face hub", "Its first use downloads it.")
    try:
        source = bundled_source()
        folder = converted_folder(source)
        if problem_with_folder(folder) is None:
            return Finding("base model", "ok", f"{source.path.name}, converted in {folder}")
        verify_source(source)
    except BaseModelError as error:
        return Finding("base model", "missing", "not usable", str(error))
    return Finding("base model", "ok", f"{source.path.name}, not converted yet", "Its first use converts it (20 s).")


def profile() -> Finding:
    """The device profile in force."""
    from course.device import ProfileError, device_profile

    try:
        profile = device_profile()
    except ProfileError as error:
        return Finding("profile", "missing", f"COURSE_PROFILE={os.environ.get('COURSE_PROFILE')}", str(error))
    found = (
        f"{profile.name}: {profile.model}, {profile.method} in {profile.dtype}, batch {profile.micro_batch_size} x "
        f"{profile.gradient_accumulation_steps}, {profile.max_length} tokens"
    )
    return Finding("profile", "ok", found)


def workspace() -> Finding:
    """The learner's folder and the notebooks it is copied from."""
    from course.workspace import shipped_notebooks_folder, workspace_folder

    folder = workspace_folder()
    shipped = len(list(shipped_notebooks_folder().glob("*.ipynb")))
    if not shipped:
        advice = "Run from a clone of the course, or build them: grader build"
        return Finding("workspace", "missing", f"no notebooks in {shipped_notebooks_folder()}", advice)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding("workspace", "missing", f"{folder} cannot be written", "Choose another: COURSE_WORKSPACE=...")
    if not folder.exists():
        return Finding("workspace", "ok", f"{folder}, not made yet", "course lab makes it.")
    return Finding("workspace", "ok", f"{folder}, {len(list(folder.glob('*.ipynb')))} of {shipped} lessons")


def jupyter() -> Finding:
    """JupyterLab and its Python kernel."""
    from jupyter_client.kernelspec import KernelSpecManager

    version = metadata.version("jupyterlab")
    kernel = KernelSpecManager().get_kernel_spec("python3")
    return Finding("JupyterLab", "ok", f"{version}, kernel {kernel.display_name}")
