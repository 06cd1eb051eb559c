

def stretched(half, multiple: float) -> None:
    """Let a device's compute take a stated multiple of its measured time (all parties share this machine's cores)."""
    for name in ("forward", "backward"):
        work = getattr(half, name)

        def paced(*arguments, work=work):
            start, own = time.perf_counter(), time.thread_time()
            found = work(*arguments)
            spent = time.thread_time() - own
            time.sleep(max(0.0, multiple * spent - (time.perf_counter() - start)))
            return found

        setattr(half, name, paced)


def own_times(task, cut: int, codec: str):
    """Thread seconds of a device's and the server's mini-batch, and bytes up and down, measured alone."""
    device, server = halves(task)
    adapters = initial_adapters(task, 0)
    for half in (device, server):
        half.set_cut(cut)
        half.load(adapters)
    data = batches(task)
    spent: dict[str, list[float]] = {"device": [], "server": []}
    for n in range(14):
        marks = [time.thread_time()]
        activation = device.forward(data.batch(n))
        marks.append(time.thread_time())
        up = pack_tensor(activation, codec)
        middle = time.thread_time()
        result = server.train(unpack_tensor(up), data.batch(n))
        served = time.thread_time()
        down = pack_tensor(result.gradient, codec)
        gradient = unpack_tensor(down)
        last = time.thread_time()
        device.backward(activation, gradient)
        spent["device"].append(marks[1] - marks[0] + time.thread_time() - last)
        spent["server"].append(served - middle)
    return median(spent["device"]), median(spent["server"]), len(up.data), len(down.data)


@pytest.mark.accept
@pytest.mark.parametrize("count", [2, 4])
def test_paced_parallel_devices_take_the_predicted_time(tmp_path, count) -> None:
    pytest.importorskip("zmq")
    torch.set_num_threads(1)
    multiple, epochs, rate_bps, codec = 8.0, 6, 4e6, "topk:0.2:8"
    task = small_task(tmp_path, batch=4, sequence=64)
    device_s, server_s, up, down = own_times(task, 2, codec)
    labels = task.batch * task.sequence * 4
    before = multiple * device_s / 2 + 8.0 * (up + labels) / rate_bps
    after = multiple * device_s / 2 + 8.0 * down / rate_bps
    waits = waits_serial([before] * count, [server_s] * count, [after] * count, epochs)
    predicted = [epochs * (before + server_s + after) + wait for wait in waits]
    names = [f"d{n}" for n in range(count)]
    trial = Trial(
        tmp_path, task, {n: [2] for n in names}, rounds=5, epochs=epochs, parallel=True, codec=codec
    )
    try:
        server = trial.server()
        children = [
            trial.device(n, doom=lambda _d, half: stretched(half, multiple), link="4mbit") for n in names
        ]
        assert [trial.wait(child, 120.0) for child in (*children, server)] == [0] * (count + 1), trial.log("server")
    finally:
        trial.end()
    turns = [t for t in trial.journal().progress.turns if t.round > 1]
    link = {"device", "encode", "decode", "uplink", "downlink", "server"}
    slowest = [
        max(sum(v for k, v in t.terms.items() if k in link) + t.waiting_s for t in turns if t.round == n)
        for n in range(2, 6)
    ]
    error = max(predicted) / median(slowest) - 1.0
    print(
        f"{count} devices, compute stretched {multiple:g} times (simulated), {codec}: predicted"
        f" {max(predicted):.3f} s, measured {median(slowest):.3f} s, {error:+.1%}"
    )
    assert abs(error) < 0.05
