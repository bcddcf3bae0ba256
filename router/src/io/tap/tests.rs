use super::*;
use crate::io::testing::fake_tap;

struct Fake(Box<dyn TapDevice>);

impl TapDevice for Fake {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    fn offloads(&self) -> Offloads {
        Offloads::Tcp
    }

    fn read(&mut self, frame: &mut [u8]) -> io::Result<(usize, Offload)> {
        self.0.read(frame)
    }

    fn write(&mut self, buffer: &[u8], frame: &Joined<'_>) -> io::Result<()> {
        self.0.write(buffer, frame)
    }
}

fn refusal() -> TapError {
    TapError::NoOffloads {
        name: "tap".to_owned(),
        request: "TUNSETOFFLOAD",
        source: io::Error::from_raw_os_error(libc::EPERM),
    }
}

#[tokio::test]
async fn offloads_if_they_can_be_had() {
    let good = || Ok(vec![Fake(fake_tap().0)]);
    let plain = || Ok(fake_tap().0);
    for choice in [Choice::Auto, Choice::Offload] {
        let opened = choose(choice, good, || panic!("not needed")).unwrap();
        assert_eq!(opened.queues[0].offloads(), Offloads::Tcp);
        assert_eq!(opened.refused, None);
    }
    let not_wanted = || -> Result<Vec<Fake>, _> { panic!("not wanted") };
    let opened = choose(Choice::Plain, not_wanted, plain).unwrap();
    assert_eq!(opened.queues[0].offloads(), Offloads::None);
    assert_eq!(opened.refused, None);

    let bad = || -> Result<Vec<Fake>, _> { Err(refusal()) };
    let opened = choose(Choice::Auto, bad, plain).unwrap();
    assert_eq!(opened.queues[0].offloads(), Offloads::None);
    assert_eq!(
        opened.refused.unwrap(),
        "the kernel refuses offloads on TAP device tap (TUNSETOFFLOAD: Operation not permitted \
         (os error 1))"
    );
    let opened = choose(Choice::Offload, bad, || panic!("not wanted"));
    assert!(matches!(opened, Err(TapError::NoOffloads { .. })));
    // What keeps both from working is told as it is.
    let busy = || Err(TapError::Busy("tap".to_owned()));
    let opened = choose(Choice::Auto, bad, busy);
    assert!(matches!(opened, Err(TapError::Busy(_))));
}
