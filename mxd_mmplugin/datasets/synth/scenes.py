"""The ten scenes: their names, places and what the ego vehicle does in each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SceneSpec:
    """One scene.

    Attributes:
        name: a scene name of the devkit's mini_train or mini_val.
        location: one of the devkit's four map names.
        plan: 'straight' along the main street, 'turn' at the first crossing on the near side, or
            'red': up to a red light, where crossing traffic and pedestrians pass.
        district: which district of the location's map this scene has to itself.
    """

    name: str
    location: str
    plan: str
    district: int

    @property
    def number(self) -> int:
        """The number in the name, which seeds the scene."""
        return int(self.name.split('-')[1])

    @property
    def left_hand(self) -> bool:
        """Whether traffic keeps to the left."""
        return self.location.startswith('singapore')


# In the order of their numbers, so that the first two are one of mini_train and one of mini_val.
SCENES = (
    SceneSpec('scene-0061', 'singapore-onenorth', 'straight', 0),
    SceneSpec('scene-0103', 'boston-seaport', 'straight', 0),
    SceneSpec('scene-0553', 'boston-seaport', 'turn', 1),
    SceneSpec('scene-0655', 'boston-seaport', 'straight', 2),
    SceneSpec('scene-0757', 'boston-seaport', 'straight', 3),
    SceneSpec('scene-0796', 'singapore-queenstown', 'red', 0),
    SceneSpec('scene-0916', 'singapore-queenstown', 'turn', 1),
    SceneSpec('scene-1077', 'singapore-hollandvillage', 'straight', 0),
    SceneSpec('scene-1094', 'singapore-hollandvillage', 'turn', 1),
    SceneSpec('scene-1100', 'singapore-hollandvillage', 'straight', 2),
)
