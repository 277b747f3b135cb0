//! `striped <n> <chunk_sectors> {<device> <start>}×n`: chunks dealt out to n devices in turn.

use super::super::Status;
use super::super::io::Op;
use super::super::limits::Lower;
use super::{
    Arguments, Ask, Builder, ChannelIndex, Chunks, Class, End, Ended, Map, Note, Notice, Refusal,
    Remap, Share, Target, refuse,
};

/// Most stripes of one target; a status line of more would not be readable, and no appliance has them.
const STRIPES_MAX: u64 = 1024;

/// An area of each of its devices, and how chunks of the target are dealt out to them.
#[derive(Clone, Debug)]
pub struct Striped {
    chunks: Chunks,
    stripes: Vec<Stripe>,
}

#[derive(Clone, Debug)]
struct Stripe {
    channel: ChannelIndex,
    start: u64,
    failed: bool,
}

impl Target for Striped {
    const NAME: &'static str = "striped";
    const FORM: &'static str = "<n> <chunk> {<device> <start>}×n";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class {
        flush_bypasses_map: true,
        ..Class::NONE
    };

    fn build(arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Result<Striped, Refusal> {
        let count = arguments.number("the number of stripes", STRIPES_MAX)?;
        if count == 0 {
            return refuse("the number of stripes is 0; at least 1 is needed");
        }
        let count_word = arguments.last();
        let chunk = arguments.sectors("the chunk size in sectors", u64::from(u32::MAX))?;
        if chunk == 0 {
            return refuse("the chunk size is 0 sectors");
        }
        let length = builder.sectors;
        if !length.is_multiple_of(count) || !(length / count).is_multiple_of(chunk) {
            let unit = count * chunk;
            let reason = format!(
                "a length of {length} sectors does not divide into {count} stripes of whole chunks of {chunk}: {} would",
                (length / unit).max(1) * unit
            );
            return Err(Refusal::new(reason).at(Arguments::LENGTH));
        }
        if arguments.left() as u64 != 2 * count {
            let reason = format!(
                "{count} stripes need {count} pairs of device and start, and {} words follow",
                arguments.left()
            );
            return Err(Refusal::new(reason).at(count_word));
        }
        let mut stripes = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (channel, start) = builder.area(arguments, length / count)?;
            stripes.push(Stripe {
                channel,
                start,
                failed: false,
            });
        }
        Ok(Striped {
            chunks: Chunks::new(chunk, count),
            stripes,
        })
    }

    fn chunks(&self) -> Option<Chunks> {
        Some(self.chunks)
    }

    #[inline(always)]
    fn remap(&self, sector: u64) -> Remap {
        let (stripe, within) = self.chunks.locate(sector);
        let stripe = &self.stripes[stripe];
        Remap::To(stripe.channel, stripe.start + within)
    }

    fn map(&mut self, ask: &Ask) -> Map {
        let (stripe, within) = self.chunks.locate(ask.sector);
        let stripe = &self.stripes[stripe];
        Map::Remapped {
            channel: stripe.channel,
            sector: stripe.start + within,
            note: Note::NONE,
        }
    }

    fn io_sectors_max(&self) -> u32 {
        self.chunks.length() as u32
    }

    fn flushes(&self) -> u32 {
        self.stripes.len() as u32
    }

    fn flush(&mut self, ask: &Ask) -> Map {
        Map::Remapped {
            channel: self.stripes[ask.number as usize].channel,
            sector: 0,
            note: Note::NONE,
        }
    }

    fn duplicates(&self, _op: Op) -> u32 {
        self.stripes.len() as u32
    }

    fn range(&mut self, ask: &Ask) -> Map {
        let stripe = ask.number as usize;
        let from = self.chunks.before(stripe, ask.sector);
        let to = self
            .chunks
            .before(stripe, ask.sector + u64::from(ask.sectors));
        if from == to {
            return Map::Zero;
        }
        let Stripe { channel, start, .. } = self.stripes[stripe];
        Map::Share(Share {
            channel,
            sector: start + from,
            sectors: (to - from) as u32,
        })
    }

    fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        let each = sectors / self.stripes.len() as u64;
        self.stripes
            .iter()
            .map(|stripe| (stripe.channel, stripe.start, each))
            .collect()
    }

    fn optimal_write_bytes(&self) -> u64 {
        self.chunks.length() * self.chunks.stripes() * 512
    }

    fn end(&mut self, ended: &Ended, notice: &mut Option<Notice>) -> End {
        let fresh = |stripe: &Stripe| stripe.channel == ended.channel && !stripe.failed;
        if ended.status != Status::NotSupported && self.stripes.iter().any(fresh) {
            *notice = Some(Notice {
                code: 0,
                index: ended.channel.0,
                value: 0,
            });
        }
        End::Done(ended.status)
    }

    /// The stripes on a lower device have failed.
    fn notice(&mut self, notice: Notice) -> bool {
        let mut news = false;
        let on_device = |stripe: &&mut Stripe| stripe.channel.0 == notice.index;
        for stripe in self.stripes.iter_mut().filter(on_device) {
            news |= !std::mem::replace(&mut stripe.failed, true);
        }
        news
    }

    fn status(&self, lowers: &[Lower]) -> String {
        let mut text = self.stripes.len().to_string();
        for stripe in &self.stripes {
            text.push(' ');
            text.push_str(&lowers[stripe.channel.0 as usize].name);
        }
        text.push_str(" 1 ");
        text.extend(
            self.stripes
                .iter()
                .map(|stripe| if stripe.failed { 'D' } else { 'A' }),
        );
        text
    }

    fn table(&self, lowers: &[Lower]) -> String {
        let mut text = format!("{} {}", self.chunks.stripes(), self.chunks.length());
        for stripe in &self.stripes {
            text.push_str(&format!(
                " {} {}",
                lowers[stripe.channel.0 as usize].name, stripe.start
            ));
        }
        text
    }
}
