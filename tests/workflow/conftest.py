import pytest

from tests.workflow.workspace import Workspace, demo_config


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("workflow"))


@pytest.fixture
def config() -> dict:
    return demo_config()
