from tests.conformance.case import Case
MAKERS = {}
