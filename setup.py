"Packaging of crosssuck; the facts stand in settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
facts = ConfigParser(delimiters=["="])
facts.read(here / "settings.ini", encoding="utf-8")
cfg = facts["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8") if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="MIT",
    url=cfg["git_url"],
    packages=["crosssuck"],
    include_package_data=True,
    python_requires=f">={cfg['min_python']},<3.13",
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split()},
    entry_points={"console_scripts": ["crosssuck = crosssuck.cli:main"]},
    zip_safe=False,
)
