"""The ring from Python: views in place, counted, and a reader in another process."""

import os
import struct
import threading

import pytest

ring_module = pytest.importorskip("fdcore._core.ring")
Ring = ring_module.Ring

SIZE = 4096


def send(ring, payload):
    while (view := ring.claim(len(payload))) is None:
        ring.wait_room(len(payload))
    view[:] = payload
    view.release()
    ring.commit()


def take(ring):
    while (view := ring.peek()) is None:
        ring.wait_data()
    payload = bytes(view)
    view.release()
    ring.release()
    return payload


def test_records_come_out_as_they_went_in():
    with Ring.make(SIZE) as ring:
        for length in (0, 1, 7, 8, 9, 1000, ring.max_record):
            payload = bytes(i * 7 % 256 for i in range(length))
            send(ring, payload)
            assert take(ring) == payload
        assert ring.peek() is None
        assert not ring.wait_data(1000)


def test_full_ring_gives_none_until_released():
    with Ring.make(SIZE) as ring:
        sent = 0
        while (view := ring.claim(504)) is not None:
            view.release()
            ring.commit()
            sent += 1
        assert sent == 7
        assert not ring.wait_room(504, 1000)
        take(ring)
        take(ring)
        assert ring.wait_room(504, 1000)


def test_larger_than_the_largest_record_is_refused():
    with Ring.make(SIZE) as ring, pytest.raises(OSError, match="too long"):
        ring.claim(ring.max_record + 1)


def test_commit_and_close_refuse_while_a_view_is_alive():
    ring = Ring.make(SIZE)
    view = ring.claim(8)
    copy = view[2:4]
    view.release()
    for refused in (ring.commit, ring.abort, ring.close, lambda: ring.claim(8)):
        with pytest.raises(BufferError):
            refused()
    copy.release()
    ring.commit()
    received = ring.peek()
    assert received.readonly
    with pytest.raises(TypeError):
        received[0] = 1
    for refused in (ring.release, ring.close):
        with pytest.raises(BufferError):
            refused()
    received.release()
    ring.release()
    ring.close()
    ring.close()
    with pytest.raises(ValueError, match="closed"):
        ring.claim(8)


def test_commit_without_claim_is_refused():
    with Ring.make(SIZE) as ring, pytest.raises(ValueError, match="claimed"):
        ring.commit()


def test_view_keeps_the_ring_alive():
    ring = Ring.make(SIZE)
    view = ring.claim(8)
    del ring
    view[:] = b"12345678"
    assert bytes(view) == b"12345678"


def test_finish_wakes_a_waiting_reader():
    with Ring.make(SIZE) as ring:
        reader = Ring.map(ring.fileno(), SIZE)
        timer = threading.Timer(0.05, ring.finish)
        timer.start()
        with pytest.raises(BrokenPipeError):
            reader.wait_data()
        timer.join()
        reader.close()


def test_other_process_reads_what_is_written_here():
    count = 2000
    with Ring.make(SIZE) as there, Ring.make(SIZE) as back:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                source = Ring.map(there.fileno(), SIZE)
                target = Ring.map(back.fileno(), SIZE)
                for _ in range(count):
                    (number,) = struct.unpack("<Q", take(source))
                    send(target, struct.pack("<Q", number * number))
                status = 0
            finally:
                os._exit(status)
        for number in range(count):
            send(there, struct.pack("<Q", number))
            assert struct.unpack("<Q", take(back)) == (number * number,)
        assert os.waitpid(child, 0)[1] == 0


def test_map_refuses_what_is_not_a_sealed_ring(tmp_path):
    plain = os.open(tmp_path / "plain", os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError):
        Ring.map(plain, SIZE)
    os.close(plain)
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, SIZE + 320)
    with pytest.raises(PermissionError):
        Ring.map(unsealed, SIZE)
    os.close(unsealed)
    with Ring.make(SIZE) as ring, pytest.raises(OSError):
        Ring.map(ring.fileno(), 2 * SIZE)


def test_no_descriptor_and_no_mapping_is_left_behind():
    def mappings():
        with open("/proc/self/maps") as lines:
            return sum("fdcore-ring" in line for line in lines)

    before = len(os.listdir("/proc/self/fd")), mappings()
    for _ in range(200):
        ring = Ring.make(SIZE)
        Ring.map(ring.fileno(), SIZE).close()
        ring.close()
        Ring.make(SIZE)
        with pytest.raises(OSError):
            Ring.make(1000)
    assert (len(os.listdir("/proc/self/fd")), mappings()) == before
