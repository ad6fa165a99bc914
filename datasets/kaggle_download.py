"""Archives from Kaggle through its official client, without a word of the user's credentials."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from datasets.files import locked

CREDENTIALS = "set KAGGLE_USERNAME and KAGGLE_KEY, or put kaggle.json into ~/.kaggle"


def download_archive(dataset: str, folder: Path, *, otherwise: str) -> Path:
    """Return the zip archive of the data set `owner/name` in `folder`; one begun before is continued.

    `otherwise` ends the message of an error: another source of the data.

    Raises:
        RuntimeError: there are no credentials, or the service refused or could not be reached. Neither the message
            nor its causes quote the client, which may name a key or a signed address.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reason = f"found no credentials; {CREDENTIALS}"
    nowhere = io.StringIO()  # with VERBOSE set the client prints the headers of its requests
    with locked(folder / "kaggle.lock", f"downloading {dataset}"), redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            client = authenticated_client()
            if client is not None:
                client.dataset_download_files(dataset, path=str(folder), force=False, quiet=True, unzip=False)
                return folder / f"{dataset.split('/')[-1]}.zip"
        except (Exception, SystemExit) as error:  # whatever the client ends with
            reason = describe(error)
    raise RuntimeError(f"Kaggle's client: {reason}; or {otherwise}")


def authenticated_client() -> Any:
    """Return the client with credentials from the environment or the user's folder, or None without any."""
    # Imported late: the import itself authenticates, and some versions end the process if that fails.
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi

        client = KaggleApi()
        client.args = [argument for argument in client.args if argument != "--verbose"]  # it would print headers
        client.authenticate()
    except SystemExit:
        return None
    except OSError as error:
        if type(error) is OSError:  # how versions before 1.7 say it; a failed request has a type of its own
            return None
        raise
    return client


def describe(error: BaseException) -> str:
    """Return the status of a refused request, or the kind of any other error."""
    if isinstance(error, ImportError):
        return str(error)
    response = getattr(error, "response", None)
    if response is None:
        return type(error).__name__
    hint = {401: CREDENTIALS, 403: f"{CREDENTIALS}; the account may have to accept the data set's terms"}
    status = int(response.status_code)
    return f"HTTP status {status}" + (f" ({hint[status]})" if status in hint else "")
