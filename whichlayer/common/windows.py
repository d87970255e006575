"""Windows of titles, made ready in a thread that stays one window ahead."""

from concurrent.futures import ThreadPoolExecutor


def ahead(prepare, windows):
    """Yield (key, prepare(titles)) for each (key, titles) in windows.

    A window waits until the next one is there and can be prepared beside it.
    """
    with ThreadPoolExecutor(1) as thread:
        begun = []
        for key, titles in windows:
            begun.append((key, thread.submit(prepare, titles)))
            if len(begun) > 1:
                first, prepared = begun.pop(0)
                yield first, prepared.result()
        for last, prepared in begun:
            yield last, prepared.result()
