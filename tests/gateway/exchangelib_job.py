"""Creates messages, reads them back and counts them, with exchangelib as it comes from PyPI.

usage: exchangelib_job.py URL USER PASSWORD ITEMS

Prints one line of JSON: what the caller was told.
"""

import json
import sys
import time

from exchangelib import BASIC, IMPERSONATION, Account, Configuration, Credentials, FaultTolerance, Message, Version
from exchangelib.version import EXCHANGE_2016


def main(url, user, password, items):
    config = Configuration(
        service_endpoint=url,
        credentials=Credentials(user, password),
        auth_type=BASIC,
        version=Version(EXCHANGE_2016),
        retry_policy=FaultTolerance(max_wait=60),
    )
    account = Account(
        primary_smtp_address="user00@contoso.com", config=config, autodiscover=False, access_type=IMPERSONATION
    )
    begun = time.monotonic()
    told = {"created": 0, "errors": [], "read": 0}
    try:
        messages = [Message(account=account, subject=f"job {n}", body="hello") for n in range(items)]
        ids = []
        for result in account.bulk_create(folder=account.drafts, items=messages):
            if isinstance(result, Exception):
                told["errors"].append(type(result).__name__)
            else:
                told["created"] += 1
                ids.append(result)
        for result in account.fetch(ids=ids):
            if isinstance(result, Exception):
                told["errors"].append(type(result).__name__)
            else:
                told["read"] += 1
    except Exception as error:  # What a caller of exchangelib sees.
        told["errors"].append(f"{type(error).__name__}: {error}"[:300])
    told["seconds"] = round(time.monotonic() - begun, 1)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
