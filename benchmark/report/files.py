"""All files of a table, a figure or requests; each kind imports only the libraries that it needs."""

from benchmark.report.query import Query


def files_of(query: Query) -> dict[str, str | bytes]:
    """Return the content of every file that follows from a query's records, by name."""
    match query.asked.kind:
        case "requests":
            from benchmark.report.requests import request_files

            return request_files(query)
        case "figure":
            from benchmark.report.figures import figure_files

            return figure_files(query)
        case _:
            from benchmark.report.table import table_files

            return {**table_files(query)}
