//! Texts of a known number of tokens: common English words, each one WordPiece token of the uncased BERT vocabulary.
//!
//! A text of `n` tokens is `n - 2` words, as BERT adds one token at either end. Called by `payload`.

use rand::Rng;
use rand::rngs::SmallRng;

#[rustfmt::skip]
const WORDS: [&str; 200] = [
    "was", "for", "with", "that", "his", "from", "her", "she", "you", "had", "were", "but", "this", "are", "not",
    "they", "one", "which", "have", "him", "first", "all", "also", "their", "has", "who", "out", "been", "when",
    "after", "there", "into", "new", "two", "its", "time", "would", "what", "about", "said", "over", "then", "other",
    "more", "can", "like", "back", "them", "only", "some", "could", "where", "just", "during", "before", "made",
    "school", "through", "than", "now", "years", "most", "world", "may", "between", "down", "well", "three", "year",
    "while", "will", "later", "city", "under", "around", "did", "such", "being", "used", "state", "people", "part",
    "know", "against", "your", "many", "second", "both", "national", "these", "known", "off", "way", "until", "how",
    "even", "get", "head", "team", "because", "born", "united", "film", "since", "still", "long", "work", "south",
    "became", "any", "high", "again", "day", "family", "see", "right", "man", "eyes", "house", "season", "war",
    "states", "including", "took", "life", "north", "same", "each", "called", "name", "much", "place", "however",
    "four", "group", "another", "found", "won", "area", "here", "going", "away", "series", "left", "home", "music",
    "best", "make", "hand", "number", "company", "several", "never", "last", "very", "album", "take", "end", "good",
    "too", "following", "released", "game", "played", "little", "began", "district", "old", "want", "those", "side",
    "held", "own", "early", "county", "league", "use", "west", "face", "think", "came", "small", "general", "town",
    "june", "line", "based", "something", "september", "thought", "looked", "along", "air", "july", "club", "went",
    "january", "river", "water", "century",
];

/// Lengths of texts in tokens, the two that BERT adds included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lengths {
    /// All the same.
    Fixed(usize),
    /// Log-normal, the bounds being two standard deviations either side of the median, and what lies outside cut off.
    LogNormal(usize, usize),
}

/// A `--tokens` that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--tokens is `{0}`: give a number of tokens from 3, or lognormal:MIN-MAX")]
pub struct LengthsError(String);

impl std::str::FromStr for Lengths {
    type Err = LengthsError;

    fn from_str(text: &str) -> Result<Self, LengthsError> {
        let wrong = || LengthsError(text.to_owned());
        let number = |text: &str| text.parse().ok().filter(|n: &usize| *n >= 3).ok_or_else(wrong);
        match text.strip_prefix("lognormal:").map(|range| range.split_once('-')) {
            None => number(text).map(Lengths::Fixed),
            Some(None) => Err(wrong()),
            Some(Some((low, high))) => {
                let (low, high) = (number(low)?, number(high)?);
                if low < high { Ok(Lengths::LogNormal(low, high)) } else { Err(wrong()) }
            }
        }
    }
}

impl Lengths {
    fn draw(self, chance: &mut SmallRng) -> usize {
        match self {
            Lengths::Fixed(tokens) => tokens,
            Lengths::LogNormal(low, high) => {
                let (a, b) = ((low as f64).ln(), (high as f64).ln());
                // Box and Muller's method: two uniform numbers make one normal one.
                let radius = (-2.0 * (1.0 - chance.random::<f64>()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * chance.random::<f64>()).cos();
                let tokens = ((a + b) / 2.0 + normal * (b - a) / 4.0).exp().round();
                (tokens as usize).clamp(low, high)
            }
        }
    }
}

/// One text and its number of tokens.
pub fn text(lengths: Lengths, chance: &mut SmallRng) -> (String, usize) {
    let tokens = lengths.draw(chance);
    let words: Vec<&str> = (2..tokens).map(|_| WORDS[chance.random_range(0..WORDS.len())]).collect();
    (words.join(" "), tokens)
}

#[cfg(test)]
mod tests {
    use super::{Lengths, WORDS, text};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn texts_have_as_many_words_as_they_say() {
        let mut chance = SmallRng::seed_from_u64(1);
        assert_eq!(text("16".parse().unwrap(), &mut chance).0.split(' ').count(), 14);
        let lengths: Lengths = "lognormal:8-256".parse().unwrap();
        let mut drawn: Vec<usize> = (0..2000).map(|_| text(lengths, &mut chance).1).collect();
        drawn.sort_unstable();
        assert!(drawn[0] >= 8 && drawn[1999] <= 256);
        // The median is the geometric mean of the bounds, 45.
        assert!((40..=51).contains(&drawn[1000]), "{}", drawn[1000]);
        assert!("lognormal:9-3".parse::<Lengths>().is_err() && "2".parse::<Lengths>().is_err());
    }

    #[test]
    fn words_differ() {
        let mut words = WORDS.to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), WORDS.len());
    }
}
