"""Evidence: the order of the words, and whether a reply repeats what it was asked to."""

import pytest

from ccexecd.core.evidence import Finding, Verdict, asked_of, final_result, repeats, worst

UUID = "5b0c1d6e-0a67-4b0e-9f3e-6a4d1c1f9d1e"


def test_the_worst_finding_decides():
    """A remark is none; what nobody signed counts more than what was edited."""
    remark, edited, forged = (Finding(each, "") for each in (Verdict.VERIFIED, Verdict.EDITED, Verdict.FORGED))
    assert worst([]) is worst([remark]) is Verdict.VERIFIED
    assert worst([remark, edited]) is Verdict.EDITED
    assert worst([edited, forged, remark]) is Verdict.FORGED


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_uuid_is_found_wherever_the_text_is_cut(cut):
    """Half of it in one part and half in the next, in upper case, too."""
    text = f"the id is {UUID.upper()}.".encode()
    assert repeats(UUID, [text[:cut], text[cut:]])
    assert not repeats(UUID, [text[:cut], text[cut:-2]])
    assert repeats(UUID, [text[at : at + 1] for at in range(len(text))])
    assert not repeats(UUID, [])


def test_a_label_says_what_was_asked():
    """Some UUID, or the execution's own."""
    assert asked_of({}, "e") is asked_of({"expect_uuid": ""}, "e") is None
    assert asked_of({"expect_uuid": UUID}, "e") == UUID
    assert asked_of({"expect_uuid": "id"}, "e") == "e"


def test_a_final_result_is_the_last_event_of_that_kind():
    """Whatever else is printed around it; without one, there is none."""
    events = b'{"type":"assistant","text":"x"}\n{"type":"result","result":"first"}\n{"type":"result","result":"last"}\n'
    assert final_result(events + b'{"broken "result"\nplain\n') == "last"
    assert final_result(b'{"type":"result","result":{"a":1}}') == '{"a": 1}'
    for none in (b"", b'plain text with "result"', b'{"type":"assistant","result":1}', b'{"result":' + b"[" * 5000):
        assert final_result(none) is None
