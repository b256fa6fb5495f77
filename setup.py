"""Puts the files of which `sg3flow init` makes a project into wheels and source distributions.

They stand at the top of this repository, outside the package, and are copied only during a build.
Everything else about the package is in `pyproject.toml`.
"""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

TOP = Path(__file__).resolve().parent
FILES = runpy.run_path(str(TOP / "src/sg3flow/cli/project_template.py"))["template_files"](TOP)


class BuildWithProject(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # a checkout: they are read where they stand
            return
        folder = Path(self.build_lib) / "sg3flow" / "project"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier build
        for name in FILES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(TOP / name, folder / name)


class SourcesWithProject(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, sorted({*files, *map(str, FILES)}))


setup(cmdclass={"build_py": BuildWithProject, "sdist": SourcesWithProject})
